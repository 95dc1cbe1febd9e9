"""The public names of the data room."""

import minimonkey.data
from minimonkey.data import collate, encode, pack, read_conversations
from minimonkey.data.encoding import encode as same


def test_names_are_functions_whatever_was_imported_before():
    assert encode is same
    assert all(callable(each) for each in (collate, pack, read_conversations, minimonkey.data.encode, minimonkey.data.collate))
