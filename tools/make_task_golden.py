#!/usr/bin/env python3
"""Writes the golden requests and measures of evaluation tasks, as the EleutherAI harness makes them from rows that are made up here.

usage: make_task_golden.py [OUT=Tests/Golden/tasks.jsonl]        needs lm-eval 0.4.13 and datasets

Each line is a task with its number of examples before a row (`shots`): `rows`, `examples` (the rows from which examples are drawn; none
where the harness draws from the task's own rows), and for the first rows `requests` (pairs of context and continuation), made-up
`scores` (log-probabilities) and whether each continuation is the `greedy` one, and the `metrics` that follow from these.
Lines with `windows` hold the windows of a document of so many tokens; lines with `page` what the harness makes of WikiText.
"""
import json
import os
import random
import sys
import tempfile
from pathlib import Path

CACHE = tempfile.TemporaryDirectory()
os.environ.update(HF_HOME=CACHE.name, HF_HUB_OFFLINE='1', DISABLE_MULTIPROC='1', TOKENIZERS_PARALLELISM='false')
from lm_eval import tasks, utils  # noqa: E402
from lm_eval.api import metrics as measures  # noqa: E402
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402

LIMIT = 6
WORDS = ('the a cat dog Müller ship  blue [title] [step] ran. don\'t "tea" sings, über ÉCLAIR its 12 hill; moon _x fast Ωmega '
         'ǆungla house: tree sat').split(' ')

class Rows:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self, least=2, most=7):
        return ' '.join(self.random.choice(WORDS) for _ in range(self.random.randint(least, most)))

    def sentence(self):
        return 'The ' + self.text() + '.'

    def choices(self, count=4):
        return [self.text(1, 4) + str(i) for i in range(count)]

    def answer(self, count):
        return self.random.randrange(count)

    def arc(self):
        labels = self.random.choice([['A', 'B', 'C', 'D'], ['1', '2', '3']])
        return {'question': self.sentence(), 'choices': {'text': self.choices(len(labels)), 'label': labels},
                'answerKey': self.random.choice(labels)}

    def boolq(self):
        return {'passage': self.sentence(), 'question': self.text(), 'label': self.answer(2)}

    def hellaswag(self):
        return {'activity_label': self.text(1, 2), 'ctx_a': self.sentence() + self.random.choice(['', ' [a\nb] c', ' [a] b [c]']),
                'ctx_b': self.text(), 'endings': self.choices(), 'label': str(self.answer(4))}

    def piqa(self):
        return {'goal': self.sentence(), 'sol1': self.text(), 'sol2': self.text(), 'label': self.answer(2)}

    def winogrande(self):
        return {'sentence': self.text().replace('_', '') + ' _ ' + self.text(), 'option1': self.text(1, 1) + '1', 'option2': self.text(1, 1) + '2',
                'answer': str(1 + self.answer(2))}

    def openbookqa(self):
        return {'question_stem': self.sentence(), 'choices': {'text': self.choices(), 'label': ['A', 'B', 'C', 'D']},
                'answerKey': self.random.choice(['A', ' B', 'C', 'D'])}

    def rte(self):
        return {'sentence1': self.sentence(), 'sentence2': self.sentence(), 'label': self.answer(2)}

    def copa(self):
        return {'premise': self.random.choice(['', ' ']) + self.sentence(), 'choice1': self.sentence(), 'choice2': 'Ɖ ' + self.sentence(),
                'question': self.random.choice(['cause', 'effect']), 'label': self.answer(2)}

    def lambada_openai(self):
        return {'text': self.sentence() + self.random.choice(['', '\n']) + ' ' + self.text(1, 3)}

    def mmlu(self):
        return {'question': ' ' + self.sentence() + '\n', 'subject': 'high_school_physics', 'choices': self.choices(), 'answer': self.answer(4)}

    def wikitext(self):
        return {'page': ' = T = \n ' + self.sentence() + ' s \' ( a ) , 1 @,@ 2 @-@ 3 " x " : \' y \' N = = z = = \n' + self.sentence() + " it 's /' 5/ [ q ] "
                + self.random.choice(['', '( open', '{ }', '" ', ' \u00b0 C'])}

HARNESS = {'mmlu': 'mmlu_high_school_physics'}

INDEX = tasks.TaskManager().task_index

def load(name, rows, examples, folder):
    """The harness's task over these rows, and the rows from which it draws examples."""
    config = load_yaml(INDEX[HARNESS.get(name, name)].yaml_path, resolve_func=True)
    own = 'test' if config.get('test_split') else 'validation'
    pool = 'dev' if config.get('fewshot_split') else 'train'
    files = {own: rows, pool: examples}
    for split in ('training_split', 'validation_split', 'test_split'):
        if config.get(split) and config[split] not in files:
            files[config[split]] = rows
    paths = {}
    for split, part in files.items():
        paths[split] = f'{folder}/{name}-{split}.jsonl'
        Path(paths[split]).write_text(''.join(json.dumps(row) + '\n' for row in part))
    config.update(dataset_path='json', dataset_name=None, dataset_kwargs={'data_files': paths})
    return config, pool

def score(random, task):
    for instance in task.instances:
        instance.resps = [(-5 * random.random() - len(instance.args[-1]) / 20, random.random() < 0.5)]

def golden(name, shots, count, folder):
    made = Rows(f'{name} {shots}')
    row = getattr(made, 'arc' if name.startswith('arc') else name)
    rows = [row() for _ in range(8)]
    examples = [row() for _ in range(count)]
    # Rows that are among their own examples, one of them more than once.
    if shots:
        examples[2] = rows[1]
        examples[3] = examples[5] = examples[6] = rows[4]
    config, pool = load(name, rows, examples, folder)
    config['num_fewshot'] = shots
    task = ConfigurableTask(config=config)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=LIMIT)
    scores = random.Random(name)
    score(scores, task)
    by_row = {}
    for instance in task.instances:
        by_row.setdefault(instance.doc_id, []).append(instance)
    found = {}
    for index, instances in sorted(by_row.items()):
        instances.sort(key=lambda instance: instance.idx)
        results = [instance.resps[0] for instance in instances]
        if name == 'wikitext':
            results = [results[0][0]]
        for metric, value in task.process_results(instances[0].doc, results).items():
            found.setdefault(metric, []).append(value)
    metrics = {}
    for metric, values in found.items():
        aggregation = task.aggregation()[metric]
        metrics[metric] = float(aggregation(values))
        if aggregation is measures.mean:
            metrics[metric + '_stderr'] = measures.mean_stderr(values)
    instances = [by_row[index] for index in sorted(by_row)]
    own = name == 'lambada_openai'
    return {'task': name, 'shots': shots, 'rows': rows, 'examples': None if own or not shots else examples,
            'requests': [[list(i.args) for i in part] for part in instances],
            'scores': [[i.resps[0][0] for i in part] for part in instances],
            'greedy': [[i.resps[0][1] for i in part] for part in instances], 'metrics': metrics}

def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else 'Tests/Golden/tasks.jsonl')
    names = ['arc_easy', 'arc_challenge', 'boolq', 'hellaswag', 'piqa', 'winogrande', 'openbookqa', 'rte', 'copa', 'lambada_openai', 'mmlu', 'wikitext']
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            # Python draws from small and from large lists in different ways.
            for shots, count in [(0, 3)] if name == 'wikitext' else [(0, 3), (2, 12)] + [(5, 40), (7, 90)] * (name in ('arc_easy', 'copa')):
                lines.append(golden(name, shots, count, folder))
    for count, longest in [(1, 8), (7, 8), (8, 8), (9, 8), (30, 8)]:
        tokens = list(range(100, 100 + count))
        windows = [utils.make_disjoint_window(pair) for pair in utils.get_rolling_token_windows(tokens, 1, longest, 1)]
        lines.append({'windows': [[list(context), list(rest)] for context, rest in windows], 'tokens': count, 'longest': longest})
    out.write_text(''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines))

if __name__ == '__main__':
    main()
