"""How the registrar ends: cleanly when told to, and not silently when the half that works on jobs is gone."""

from pathlib import Path

from rivermill.registrar_process import Registrar


class Halved(Registrar):
    """One whose jobs thread ends by itself."""

    def _work(self) -> None:
        return


def test_told_to_stop_it_ends_well(tmp_path: Path) -> None:
    registrar = Registrar([], tmp_path, "", lambda _: None)
    registrar.stop()
    assert registrar.run()


def test_without_its_jobs_thread_it_ends_badly(tmp_path: Path) -> None:
    assert not Halved([], tmp_path, "", lambda _: None).run()
