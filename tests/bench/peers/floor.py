"""A bare fork-exec-wait loop in C: what nobody can go below."""

from ..subject import Subject


class Floor(Subject):
    name = "floor"

    def write(self, count: int) -> None:
        self.count = count

    def command(self) -> list[str]:
        return [str(self.ground.floor), str(self.ground.born), str(self.ground.births.path), str(self.count)]
