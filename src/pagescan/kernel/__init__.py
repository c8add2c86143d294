"""What Linux says: the only code with kernel numbers, and the only one that needs Linux.

* ``ioctl``: request and system call numbers of every architecture.
* ``procfs``: mappings, status, and why a process cannot be looked at.
* ``memory``: bytes, mappings and advice by address.
* ``pagemap``: the file ``PAGEMAP_SCAN`` is called on.
* ``userfaultfd``: the descriptor behind write protection.
* ``space``: all of it as one :class:`pagescan.abi.AddressSpace`.

Nothing is imported here but ``space``, which completes ``Pagemap.open``.
"""

from . import space as space
