"""What the key h shows."""

HELP = """\
KEYS
  q, Ctrl-C    quit (Ctrl-C also interrupts a started CMD)
  space, Z     pause; the next look tells of the whole pause
  s, >   <     sort by the next, or previous, column
  r            the other way round
  /            show only what has these words in its name,
               addresses or permissions; Enter keeps it
  Esc          take back the filter, then the chosen line
  i            leave out what was not written to for a minute
  t            heat over time, or by address
  arrows, PgUp, PgDn, Home, End   choose a line
  h, ?         this page (the arrows scroll it)

WHAT IS SHOWN
  NOW/s        bytes of pages written to since the last look,
               per second; a page counts once a look
  1 MIN/s      the same over the last minute
  HEAT         the share of the pages that was written to: a cell
               is a part of the mapping, or one look. Each step is
               twice the one below; by address, what is written no
               more sinks a step every 5 seconds.
  + new, and - gone, for ten seconds      ! not tracked
Any other key goes back.
"""
