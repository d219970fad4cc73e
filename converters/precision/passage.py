"""The fixed text that every precision is measured on; written for this purpose, so that no model has learnt it.

In: nothing. Out: the text and its sentences. This module must never change a word: figures on another text cannot be compared, and
a new text is a new version.
"""

from __future__ import annotations

VERSION = "posthuman/passage/v1"

_WRITTEN = """\
The harbour of Tarvik lies on the west coast, where the river meets the sea. In the winter of 1931 a small ship left it
with forty barrels of fish and a crew of nine. The captain, a quiet man called Halvard Moen, had made the journey more
than sixty times. On the second night the wind turned to the north and the waves grew higher than the rail. Nobody on
the shore heard from the ship for eleven days. When it came back, the mast was gone, two barrels were missing, and all
nine men were alive.

The town council asked the captain to write down what had happened. His report was three pages long and is kept in the
local museum. It says that the crew took turns at the pump, four hours each, and that they sang in order not to fall
asleep. It also says that the compass had been wrong by eight degrees since the day it was bought. A later owner of the
ship had the instrument tested and found the same error. Since then the school of navigation uses the story to teach its
students a simple rule. Never trust one instrument alone, and write down every reading as soon as you have made it.

Most of the houses near the water were built between 1890 and 1910. They are made of wood and painted red, yellow or
white. A fire destroyed the northern part of the town in 1924, but the church and the library survived. The library
holds about 12,000 books, among them the first printed map of the region. Its reading room is open from Monday to
Friday, and on the first Saturday of each month. Visitors who want to see the map have to ask for it a week before they
come. The paper is thin, and light does it no good.

How does a compass work, and why can it be wrong? A needle of iron that can turn freely points along the field of the
Earth. The field does not point exactly north, and the difference changes slowly from year to year. Iron in the ship
pulls the needle as well, so an engine, an anchor or a knife in a pocket is enough to mislead it. A good navigator
therefore measures the error of the compass for every direction in which the ship may sail. The results are written on a
card that hangs beside the wheel. If the cargo changes, the card has to be made again.

In the spring of 1952 a research station was opened on the hill above the harbour. Three scientists lived there for
eighteen months and measured the temperature of the sea every six hours. They found that the water at a depth of fifty
metres was warmer in November than in August. The explanation was simple: the heat of the summer needs that long to
travel down. Their figures were published in 1955 and have been quoted in more than two hundred papers. One of the
three, Ingrid Solberg, later became a professor at the university. She once said that the best part of the work had been
the silence between two measurements.

Today about four thousand people live in Tarvik. The fish are sold on the internet, the ferry runs on batteries, and the
school has fewer pupils than it had thirty years ago. Some families have moved to the city, others have come from far
away to start again. Every summer the town celebrates the return of the nine men with music and a race of small boats.
The winner receives no money, only a compass that is wrong by eight degrees.
"""

PARAGRAPHS: tuple[str, ...] = tuple(" ".join(paragraph.split()) for paragraph in _WRITTEN.split("\n\n"))

PASSAGE = "\n\n".join(PARAGRAPHS)

SENTENCES: tuple[str, ...] = tuple(
    sentence.strip(". ") + ("" if sentence.endswith("?") else ".")
    for paragraph in PARAGRAPHS
    for sentence in paragraph.replace("? ", "?. ").split(". ")
)
"""One by one, in order; no sentence of the text has a full stop inside."""
