"""How many connections one sshd is asked for at a time: learned from its hanging up, and learned anew."""

from __future__ import annotations

import threading
import time

from labctl.providers.kubeadm.sessions import MOST_STARTING, Door


class Sshd:
    """Hangs up on what comes while `most` are at its door."""

    def __init__(self, most: int) -> None:
        self.most, self.inside, self.refused, self.peak = most, 0, 0, 0
        self.lock = threading.Lock()

    def lets_in(self) -> bool:
        with self.lock:
            if self.inside >= self.most:
                self.refused += 1
                return False
            self.inside += 1
            self.peak = max(self.peak, self.inside)
        time.sleep(0.02)
        with self.lock:
            self.inside -= 1
        return True


def come(door: Door, sshd: Sshd, count: int) -> None:
    def one() -> None:
        while True:
            with door.turn():
                if sshd.lets_in():
                    door.let_in()
                    return
            door.turned_away()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_fewer_come_at_a_time_once_it_has_hung_up() -> None:
    door, sshd = Door(), Sshd(1)
    come(door, sshd, 6)
    assert sshd.refused == door.hung_up >= 1
    assert door.most == 1
    before = sshd.refused
    come(door, sshd, 4)
    assert sshd.refused == before  # what was learned is kept


def test_where_it_never_hangs_up_that_many_come_at_a_time() -> None:
    door, sshd = Door(), Sshd(100)
    come(door, sshd, 20)
    assert (sshd.refused, door.most) == (0, MOST_STARTING)
    assert sshd.peak <= MOST_STARTING


def test_many_in_a_row_open_it_again_and_pauses_begin_anew() -> None:
    door = Door()
    for _ in range(3):
        begun_s = time.monotonic()
        door.turned_away()
    assert door.most == 1
    # The third pause, twice twice the first, began between the two times.
    assert door._rests_until_s - begun_s > 1.0
    assert door._rests_until_s - time.monotonic() < 3.0
    for _ in range(100):
        door.let_in()
    assert door.most == MOST_STARTING
    door.turned_away()
    assert door._rests_until_s - time.monotonic() < 1.0


def test_while_it_rests_nobody_comes() -> None:
    door = Door()
    door.turned_away()
    begun_s = time.monotonic()
    with door.turn():
        assert time.monotonic() - begun_s >= 0.3
