"""Prints the title of every HTML file under a folder, as Python's own parser reads it: JSON, by path."""

import json
import pathlib
import sys
from html.parser import HTMLParser


class Title(HTMLParser):
    """The text of the first title element, before any body."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text, self.within, self.over = "", False, False

    def handle_starttag(self, tag, attrs):
        if tag == "body":
            self.over = True
        self.within = tag == "title" and not self.over

    def handle_endtag(self, tag):
        if tag == "title" and self.within:
            self.within, self.over = False, True

    def handle_data(self, data):
        if self.within:
            self.text += data


titles = {}
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.rglob("*.html")):
    parser = Title()
    parser.feed(path.read_bytes().decode(sys.argv[2]))
    titles[path.relative_to(folder).as_posix()] = " ".join(parser.text.split())
json.dump(titles, sys.stdout)
