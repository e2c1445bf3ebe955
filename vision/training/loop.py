"""The training loop: resume, then for each call of the step update, log, evaluate, save, stop."""

import pathlib

from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision.data.pipeline import Data
from vision.training.host import ALONE, Host
from vision.training.outcome import Outcome
from vision.training.session import Session


def train(
    config: ConfigDict, data: Data, workdir: pathlib.Path, mesh: Mesh, host: Host = ALONE
) -> Outcome:
    """Trains to the end, to an early stop, or to a SIGTERM; resumes if `workdir` has checkpoints.

    Args:
        config: the run's config.
        data: what the run learns from.
        workdir: the run directory.
        mesh: from `vision.parallel.make_mesh`.
        host: who watches, and with whom programs are shared.

    Raises:
        UserError: the config does not fit its data or devices.
        RunError: the loss is no longer finite, and the last good checkpoint is kept; or the data
            can no longer be read, and the finished steps are saved.
    """
    with Session(config, data, workdir, mesh, host) as session:
        with session.saving_what_is_done():
            session.resume()
            for call in session.calls():
                session.update(call)
                if session.evaluates_after(call):
                    session.validate()
                    session.save()
                elif session.saves_after(call):
                    session.save()
                elif session.reports_after(call):
                    session.report()
                if session.stops_after(call):
                    break
        return session.outcome()
