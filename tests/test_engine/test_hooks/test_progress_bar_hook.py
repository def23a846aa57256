import gc
import io
import logging
import re

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from swin_ext.engine.hooks import GPUStatsHook, ProgressBarHook
from toy_watched_run import make_runner
from two_ranks import log_of, run_on_two_ranks


class Terminal(io.StringIO):
    """A terminal of endless height; `screen` is what is to be seen."""

    def isatty(self):
        return True

    def screen(self):
        lines, row, column = [''], 0, 0
        for part in re.findall(r'\x1b\[A|\x1b\[[\d;]*m|\r|\n|[^\x1b\r\n]+', self.getvalue()):
            if part == '\r':
                column = 0
            elif part == '\n':
                row, column = row + 1, 0
                lines += [''] * (row + 1 - len(lines))
            elif part == '\x1b[A':
                row -= 1
            elif not part.startswith('\x1b'):  # colours
                line = lines[row].ljust(column)
                lines[row] = line[:column] + part + line[column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in lines if line.strip()]


def use_terminal(runner, terminal):
    (handler,) = (h for h in runner.logger.handlers if type(h) is logging.StreamHandler)
    handler.setStream(terminal)
    return handler


class Screens(Hook):
    """What is to be seen after each iteration, and while metrics are computed."""

    priority = 'LOWEST'

    def __init__(self, terminal):
        self.terminal, self.seen = terminal, {}

    def before_train(self, runner):
        bar = runner.hooks[[type(h) for h in runner.hooks].index(ProgressBarHook)]._bar
        bar.mininterval = 0  # tqdm shows each update

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen[runner.iter + 1] = self.terminal.screen()


class Printing(BaseMetric):
    """Writes to the terminal, as pycocotools does."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.terminal.write('Evaluate annotation type\nDONE\n')
        return dict(segm_mAP=0.5)


def without_time(line):
    return re.sub(r'^\d\d/\d\d \d\d:\d\d:\d\d - ', '', line)


@pytest.fixture
def watched(tmp_path):
    terminal = Terminal()
    screens = Screens(terminal)
    runner = make_runner(
        tmp_path,
        hooks=[ProgressBarHook(), GPUStatsHook(), screens],
        val_interval=4,
        val_evaluator=[Printing(terminal)],
        log_interval=2,
    )
    use_terminal(runner, terminal)
    runner.train()
    return runner, screens.seen, terminal


def test_the_bar_stays_below_the_log_lines(watched):
    _, seen, _ = watched
    for step, screen in seen.items():
        bars = [line for line in screen if re.search(r'\d+%\|', line)]
        assert bars == [screen[-1]], step
        assert re.match(rf'train: +\d+%\|.*\| {step}/8 \[', bars[0])
        assert 'Iter(train)' not in bars[0] and 'mmengine' not in bars[0]


def test_the_bar_tells_loss_rate_time_left_and_device(watched):
    runner, seen, _ = watched
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    for step, screen in seen.items():
        assert f'loss {losses[step - 1]:.3f}, lr 1.0e-01' in screen[-1]
        assert re.search(r'\[\d\d:\d\d<\d\d:\d\d, ', screen[-1])
    pytest.importorskip('psutil')
    assert re.search(r'CPU \d+ % \d+\.\d/\d+ GiB\]', seen[8][-1])


def test_log_lines_are_those_of_the_log_file(watched):
    runner, _, terminal = watched
    in_file = [
        line.rstrip() for line in re.findall(r'mmengine - \w+ - (?:Epoch|Saving).*', log_of(runner))
    ]
    shown = [without_time(line) for line in terminal.screen()]
    assert len(in_file) >= 6
    assert [line for line in shown if line in in_file] == in_file


def test_what_metrics_print_is_left_alone(watched):
    screen = watched[2].screen()
    for _ in range(2):
        start = screen.index('Evaluate annotation type')
        assert screen[start + 1] == 'DONE'
        screen = screen[start + 2 :]


def test_the_stream_is_given_back(watched):
    runner, _, terminal = watched
    (handler,) = (h for h in runner.logger.handlers if type(h) is logging.StreamHandler)
    assert handler.stream is terminal
    assert '100%' in terminal.screen()[-1] or 'mmengine' in terminal.screen()[-1]


def test_a_resumed_run_starts_where_it_was(tmp_path):
    make_runner(tmp_path, max_epochs=1).train()
    terminal = Terminal()
    screens = Screens(terminal)
    runner = make_runner(
        tmp_path,
        hooks=[ProgressBarHook(), screens],
        resume=True,
        load_from=str(tmp_path / 'iter_4.pth'),
    )
    use_terminal(runner, terminal)
    runner.train()
    assert ' 5/8 [' in screens.seen[5][-1] and screens.seen[5][-1].startswith('train:  62%')


def test_no_bar_without_a_terminal(tmp_path):
    runner = make_runner(tmp_path, hooks=[ProgressBarHook()])
    stream = io.StringIO()
    use_terminal(runner, stream)
    runner.train()
    assert '%|' not in stream.getvalue()
    assert len(re.findall(r'Epoch\(train\).*lr: .*eta: .*loss: ', stream.getvalue())) == 8


def train_rank(rank, folder):
    terminal = Terminal()
    runner = make_runner(folder / 'work_dir', hooks=[ProgressBarHook()], launcher='pytorch')
    use_terminal(runner, terminal)
    runner.train()
    return terminal.getvalue()


def test_rank_0_alone_has_a_bar(tmp_path):
    first, second = run_on_two_ranks(train_rank, tmp_path)
    assert '4/4 [' in first
    assert second == ''


def test_a_run_that_dies_gives_the_terminal_back(tmp_path):
    terminal = Terminal()
    runner = make_runner(tmp_path, hooks=[ProgressBarHook()])
    handler = use_terminal(runner, terminal)
    (hook,) = (h for h in runner.hooks if isinstance(h, ProgressBarHook))
    hook.before_train(runner)
    hook._bar.disable = True  # as while metrics print
    assert handler.stream is not terminal
    hook.close(runner)
    assert handler.stream is terminal and terminal.getvalue().endswith('\n')
    hook.close(runner)
    assert handler.stream is terminal


def test_nothing_is_to_be_given_back_without_a_training():
    ProgressBarHook().close()


def test_the_terminal_is_given_back_with_the_hook(tmp_path):
    terminal = Terminal()
    runner = make_runner(tmp_path, hooks=[])
    handler = use_terminal(runner, terminal)
    hook = ProgressBarHook()
    runner.register_hook(hook)
    hook.before_train(runner)
    runner.hooks.remove(hook)
    del hook
    gc.collect()
    assert handler.stream is terminal
