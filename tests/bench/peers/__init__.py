"""One adapter per supervisor."""

from ..subject import Subject
from .circus import Circus
from .daemontools import Daemontools
from .dinit import Dinit
from .floor import Floor
from .horust import Horust
from .loom import Loom, LoomAgent
from .pitchfork import Pitchfork
from .pm2 import Pm2
from .process_compose import ProcessCompose
from .runit import Runit
from .s6 import S6
from .supervisord import Supervisord
from .systemd import Systemd

#: In the order of the table.
ALL: list[type[Subject]] = [
    Floor,
    Loom,
    LoomAgent,
    Dinit,
    S6,
    Runit,
    Daemontools,
    Systemd,
    Supervisord,
    Circus,
    Pm2,
    ProcessCompose,
    Pitchfork,
    Horust,
]
