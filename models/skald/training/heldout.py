"""heldout.py MODEL: the held-out sentences that the recall sets were filled with, each once, in the order in which the sets
have them, as MODEL/heldout.txt: text to measure perplexity on. Of what was planted and asked nothing is kept."""
import json, re, sys
OUT = sys.argv[1]; seen = {}
planted = re.compile(r'(Remember: \w+ \d{4}\.|The (password|number|secret) of the \w+ is \d{4}\.)$')
asked = re.compile(r' (Recall: \w+|What is the (\w+) of the \w+\? The \w+ of the \w+ is)$')
for length in (2048, 1024, 512, 256, 128):
    for line in open(f'{OUT}/recall/{length}.jsonl'):
        text = asked.sub('', json.loads(line)['prompt'])
        for s in re.split(r'(?<=[.!?])\s', text):
            s = re.sub(r"End of Project Gutenberg's .* Stevenson ", '', s.replace('\n', ' '))
            if not planted.search(s): seen.setdefault(s)
open(f'{OUT}/heldout.txt', 'w').write('\n'.join(seen) + '\n')
print(len(seen), 'sentences')
