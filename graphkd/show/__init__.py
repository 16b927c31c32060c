"""What a finished run knows: its graphs, relations and embeddings, as values and as pictures."""

from graphkd.show.inspection import Inspection, NetworkView, inspect
from graphkd.show.pictures import draw_pictures

__all__ = ["Inspection", "NetworkView", "draw_pictures", "inspect"]
