"""What a run writes and shows: metrics.jsonl, TensorBoard events, a progress bar."""

import concurrent.futures
import json
import math
import sys
import time

import numpy as np
import tqdm


class RunLog:
    """Writes a run's numbers, on a thread of its own: a slow disk holds up nobody.

    Args:
        workdir: `pathlib.Path` of the run.
        c: config.log.
        start: finished steps; later lines of an earlier, killed process are dropped from
            metrics.jsonl.
        steps: the training's length.
        active: False on every host but one: nothing is written or shown.
    """

    def __init__(self, workdir, c, start, steps, active=True):
        self._active = active
        self._steps = steps
        self._bar = self._events = self._file = self._last = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "log")
        self._shown = time.monotonic()
        if not active:
            return
        self._file = _reopen(workdir / "metrics.jsonl", start)
        if c.tensorboard:
            self._events = _Events(workdir / "tensorboard", start)
        self._lines = c.progress and not sys.stderr.isatty()
        if c.progress and not self._lines:
            form = "{n_fmt}/{total_fmt} |{bar}| {elapsed} < {remaining}{postfix}"
            self._bar = tqdm.tqdm(
                initial=start, total=steps, bar_format=form, dynamic_ncols=True, leave=False
            )

    def print_line(self, text: str) -> None:
        """Shows a line without breaking the bar."""
        if self._active:
            print_line(text)

    def advance(self, step):
        """Moves the bar to `step` finished steps."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def train(self, step, scalars):
        """Records training scalars: a dict of floats that holds loss, learning_rate and
        images_per_second."""
        self.scalars(step, {f"train/{k}": v for k, v in scalars.items()})
        text = f"loss {scalars['loss']:.4f}, lr {scalars['learning_rate']:.2e}, {scalars['images_per_second']:,.0f} img/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._active and self._lines and time.monotonic() - self._shown > 10:
            self._shown = time.monotonic()
            self.print_line(f"step {step}/{self._steps}: {text}")

    def evaluation(self, step, scalars):
        """Records validation scalars and shows them."""
        self.scalars(step, scalars)
        if self._active and (self._bar is not None or self._lines):
            numbers = ", ".join(
                f"{name.removeprefix('val/')} {value:.4f}" for name, value in scalars.items()
            )
            self.print_line(f"step {step}/{self._steps}: val {numbers}")

    def scalars(self, step, scalars):
        """Appends {"step": step, name: float, ...} to metrics.jsonl and to TensorBoard."""
        if not self._active:
            return
        self._begin(self._write, step, dict(scalars))

    def images(self, step, images):
        """Shows uint8 or float [0, 255] (B, H, W, C) images as one grid in TensorBoard."""
        if self._events:
            self._begin(lambda: self._events.image(step, "train/augmented", grid(images)))

    def text(self, name, text):
        if self._events:
            block = "    " + text.replace("\n", "\n    ")  # as code
            self._begin(self._events.text, 0, name, block)

    def flush(self):
        """Waits until everything so far is on the disk; raises what went wrong there."""
        last = self._last
        self._last = None
        if last is not None:
            last.result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            for each in (self._bar, self._events, self._file):
                if each is not None:
                    each.close()

    def _begin(self, function, *arguments):
        """Lets the thread do it after what came before, and nothing more once something failed."""
        before = self._last

        def after():
            if before is not None:
                before.result()
            function(*arguments)

        self._last = self._thread.submit(after)

    def _write(self, step, scalars):
        # JSON has no NaN
        numbers = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        if self._events:
            self._events.scalars(step, scalars)


class _Events:
    """TensorBoard events, on the disk when a method returns.

    tensorboardX's own SummaryWriter queues them for a thread, and a kill would lose what
    metrics.jsonl has.
    """

    def __init__(self, directory, start):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._make = summary
        self._proto = event_pb2
        directory.mkdir(exist_ok=True)
        # Files are named by the second: the suffix keeps one a process.
        self._writer = event_file_writer.EventsWriter(str(directory / "events"), f".{start}")
        begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(
            start + 1 if start else 0, session_log=begun
        )  # TensorBoard forgets what lies at and after this step

    def scalars(self, step, scalars):
        for name, value in scalars.items():
            self._write(step, summary=self._make.scalar(name, value))

    def image(self, step, name, pixels):
        self._write(step, summary=self._make.image(name, pixels, dataformats="HWC"))

    def text(self, step, name, text):
        self._write(step, summary=self._make.text(name, text))

    def close(self):
        self._writer.close()

    def _write(self, step, **content):
        self._writer.write_event(self._proto.Event(wall_time=time.time(), step=step, **content))
        self._writer.flush()


def print_line(text: str) -> None:
    """Prints a line to stderr, above a bar if there is one."""
    tqdm.tqdm.write(text, file=sys.stderr)


def grid(images):
    """Lays (B, H, W, C) images out as one uint8 picture, as square as can be, with a white line
    between them."""
    images = np.clip(np.rint(np.asarray(images, np.float32)), 0, 255).astype(np.uint8)
    images = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    filled = np.full((rows * columns, height, width, channels), 255, np.uint8)
    filled[:count] = images
    picture = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return np.broadcast_to(
        picture.reshape(rows * height, columns * width, channels),
        (rows * height, columns * width, 3),
    )


def _reopen(path, start):
    """Opens for appending, without the lines after step `start`: the process that wrote them was
    killed."""
    kept = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break  # the kill came in the middle of this line
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
    return path.open("a")
