"""Inside the sandbox there are no terminals (a user namespace without root has none): whoever asks for one gets a socket pair.

Found by any Python that starts with this folder on its path, before any program; standard library only.
"""

import os
import socket


def openpty():
    master, slave = socket.socketpair()
    return master.detach(), slave.detach()


os.openpty = openpty
