"""Messages between a supervisor and its children, in whatever pieces they arrive."""

import marshal
import select
import socket
import struct
import threading

import pytest

from fireforget._pool.channel import Channel, Mailbox

LARGE = b"x" * 3_000_000
MESSAGES = [("frame", 1, [(1, "a", None, 2.5)]), 0, "", (), {"a": (1, 2)}, True]


@pytest.fixture
def ends():
    """The two ends: the child's channel and the supervisor's mailbox, and the child's bare socket."""
    ours, theirs = socket.socketpair()
    mailbox = Mailbox(ours)
    yield Channel(theirs), mailbox, theirs
    mailbox.close()
    theirs.close()


def frame(message):
    data = marshal.dumps(message)
    return struct.pack("<I", len(data)) + data


def test_messages_arrive_whole_and_in_order_both_ways(ends):
    """Whatever they are."""
    channel, mailbox, _ = ends
    for message in MESSAGES:
        mailbox.send(message)
        channel.send(message)
    assert [channel.receive() for _ in MESSAGES] == MESSAGES
    assert mailbox.receive() == MESSAGES
    assert mailbox.receive() == []
    assert not mailbox.ended


def test_a_message_that_comes_byte_by_byte_is_put_together(ends):
    """Nothing is taken for a message before its last byte is there, and the next one begins right behind it."""
    _, mailbox, theirs = ends
    data = frame(("one", 1)) + frame(("two", 2))
    got = []
    for position in range(len(data)):
        theirs.send(data[position : position + 1])
        select.select([mailbox], [], [], 5)
        messages = mailbox.receive()
        assert not messages or position + 1 in (len(frame(("one", 1))), len(data))
        got += messages
    assert got == [("one", 1), ("two", 2)]


def test_the_childs_end_waits_for_the_rest_of_a_message(ends):
    """A part of the length, then a part of the text, then all of it and more."""
    channel, mailbox, _ = ends
    data = frame("hello") + frame("again")
    for piece in (data[:2], data[2:7], data[7:]):
        mailbox.socket.send(piece)
    assert [channel.receive(), channel.receive()] == ["hello", "again"]


def test_a_large_message_does_not_stop_the_supervisor(ends):
    """What does not fit into the socket waits at the supervisor's end, which goes on."""
    channel, mailbox, _ = ends
    mailbox.send(LARGE)
    assert mailbox.unsent
    got = []
    reader = threading.Thread(target=lambda: got.append(channel.receive()))
    reader.start()
    while mailbox.unsent:
        select.select([], [mailbox], [], 5)
        mailbox.flush()
    reader.join()
    assert got == [LARGE]


def test_a_large_message_to_the_supervisor_arrives(ends):
    """In as many pieces as it takes."""
    channel, mailbox, _ = ends
    writer = threading.Thread(target=channel.send, args=(LARGE,))
    writer.start()
    got = []
    while not got:
        select.select([mailbox], [], [], 5)
        got = mailbox.receive()
    writer.join()
    assert got == [LARGE]


def test_the_end_of_the_other_side_is_told(ends):
    """What was sent before it still arrives."""
    channel, mailbox, theirs = ends
    channel.send("last")
    theirs.close()
    assert mailbox.receive() == ["last"]
    mailbox.receive()
    assert mailbox.ended
    mailbox.send("into the void")
    assert mailbox.receive() == []


def test_a_child_whose_supervisor_is_gone_reads_none(ends):
    """Also in the middle of a message."""
    channel, mailbox, _ = ends
    mailbox.send("first")
    mailbox.socket.send(frame("half")[:5])
    mailbox.close()
    assert channel.receive() == "first"
    assert channel.receive() is None


def test_a_child_can_ask_whether_something_waits(ends):
    """Without waiting and without taking it."""
    channel, mailbox, _ = ends
    assert not channel.has_message()
    mailbox.send("a")
    mailbox.send("b")
    assert channel.has_message()
    assert channel.receive() == "a"
    assert channel.has_message()
    assert channel.receive() == "b"
    assert not channel.has_message()
