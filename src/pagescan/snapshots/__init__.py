"""Memory kept: versions of buffers in a store, incremental, verified, restorable.

Read it from the bottom up: ``base.py`` says what a backend is (packs and manifests, both immutable); ``digests.py``,
``codec.py`` and ``packs.py`` turn pages into packs of frames; ``manifest.py`` is one version; ``contents.py`` is what
a version says of every page; ``writer.py`` and ``chain.py`` write what the next version of a series needs,
``commit.py`` makes it, ``reader.py`` reads one; ``memory.py`` is a buffer of this process as both need it;
``series.py`` and ``store.py`` are what users see. Backends are ``local.py`` (one SQLite file), and ``objects.py`` on
``object_access.py`` (object storage). The format is defined by ``docs/formats/store.md``.
"""
