import sys
from pathlib import Path

# For the folder below, whose tests use `segmentable`, too.
sys.path.insert(0, str(Path(__file__).parent))
