"""python-etcd, unmodified, against any server that speaks etcd's v2 API.

    python_etcd.py http://127.0.0.1:2379 [GROUP...]

Runs the checks of the given groups (all of them if none is given) in the order below, prints one line per check, and
exits with 1 at the first that fails. Every check works under a directory of its own, so the server may hold other
data; only the group `auth` needs a server nobody else uses. Nothing here measures time: what has to happen first is
waited for, and a check that waits in vain fails after LIMIT.
"""

import sys
import threading
import time
import traceback
from datetime import datetime
from urllib.parse import urlparse

import etcd
from etcd.auth import Auth, EtcdRole, EtcdUser

# Seconds after which something that must happen has not happened.
LIMIT = 20
# Events a server keeps for watchers that ask for the past; older ones are answered with error 401.
HISTORY = 1000
# A lease that outlives any check.
LONG = 600

GROUPS = {}


def check(group):
    """Registers a function as a check: it is called with a client and a directory of its own."""

    def register(function):
        GROUPS.setdefault(group, []).append(function)
        return function

    return register


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def refused(error, function, *args, **kwargs):
    """Calls `function`, which must raise exactly `error`; returns the exception."""
    try:
        result = function(*args, **kwargs)
    except etcd.EtcdException as raised:
        equal(type(raised), error)
        return raised
    raise AssertionError(f"{error.__name__} was not raised; got {result!r}")


def until(condition):
    """Waits for something that another thread or the server does."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {LIMIT} s in vain")
        time.sleep(0.01)


class Background:
    """A call in a thread of its own."""

    def __init__(self, function, *args, **kwargs):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(function, args, kwargs), daemon=True)
        self._thread.start()

    def _run(self, function, args, kwargs):
        try:
            self._outcome = (function(*args, **kwargs), None)
        except BaseException as error:  # handed to whoever asks for the result
            self._outcome = (None, error)

    def done(self):
        return self._outcome is not None

    def result(self):
        self._thread.join(LIMIT)
        if self._outcome is None:
            raise AssertionError(f"no answer within {LIMIT} s")
        if self._outcome[1] is not None:
            raise self._outcome[1]
        return self._outcome[0]


def connect(url, **kwargs):
    """A client as an application makes one."""
    parts = urlparse(url)
    return etcd.Client(host=parts.hostname, port=parts.port, read_timeout=LIMIT, **kwargs)


def another(client, **kwargs):
    """A second application on the same server."""
    return connect(client.base_uri, **kwargs)


# ---------------------------------------------------------------------------------------------------- values


@check("values")
def a_value_is_written_and_read(client, at):
    written = client.write(f"{at}/a", "one")
    equal((written.action, written.key, written.value, written.newKey), ("set", f"{at}/a", "one", True))
    equal(written.createdIndex, written.modifiedIndex)
    equal(written.etcd_index, written.modifiedIndex)
    read = client.read(f"{at}/a")
    equal((read.action, read.value, read.newKey, read.dir), ("get", "one", False, False))
    equal((read.ttl, read.expiration), (None, None))
    equal(read.createdIndex, written.createdIndex)
    if read.raft_index < written.raft_index:
        raise AssertionError("the raft index moved back")


@check("values")
def a_value_is_replaced(client, at):
    first = client.set(f"{at}/a", "one")
    second = client.set(f"{at}/a", "two")
    equal((second.value, second.newKey), ("two", False))
    equal(second._prev_node.value, "one")
    equal(second._prev_node.modifiedIndex, first.modifiedIndex)
    equal(second.modifiedIndex, first.modifiedIndex + 1)
    equal(client.get(f"{at}/a").value, "two")


@check("values")
def a_key_is_in_or_not(client, at):
    equal(f"{at}/a" in client, False)
    client.set(f"{at}/a", "one")
    equal(f"{at}/a" in client, True)


@check("values")
def a_key_that_is_missing_is_not_found(client, at):
    error = refused(etcd.EtcdKeyNotFound, client.read, f"{at}/a/b")
    equal((error.payload["errorCode"], error.payload["message"]), (100, "Key not found"))
    equal(error.payload["cause"], at)
    refused(etcd.EtcdKeyNotFound, client.delete, f"{at}/a")


@check("values")
def a_value_may_be_anything(client, at):
    values = ["", "a&b=c+d%e", "<b>\"quoted\"</b>", "größe 長さ 🙂", "tab\tline\r\n", "x" * 200_000]
    for number, value in enumerate(values):
        equal(client.write(f"{at}/{number}", value).value, value)
        equal(client.read(f"{at}/{number}").value, value)


@check("values")
def a_key_may_be_anything(client, at):
    for key in [f"{at}/größe", f"{at}/with space", f"{at}/a+b", f"{at}/a=b&c", f"{at}/長さ/🙂"]:
        equal(client.write(key, "here").key, key)
        equal(client.read(key).value, "here")


@check("values")
def a_value_is_deleted(client, at):
    written = client.write(f"{at}/a", "one")
    deleted = client.delete(f"{at}/a")
    equal((deleted.action, deleted.key, deleted.value), ("delete", f"{at}/a", None))
    equal((deleted.createdIndex, deleted.modifiedIndex), (written.createdIndex, written.modifiedIndex + 1))
    equal(deleted._prev_node.value, "one")
    equal(f"{at}/a" in client, False)


@check("values")
def a_value_is_popped(client, at):
    client.write(f"{at}/a", "one")
    equal(client.pop(f"{at}/a").value, "one")
    refused(etcd.EtcdKeyNotFound, client.pop, f"{at}/a")


@check("values")
def a_quorum_read_sees_the_write(client, at):
    client.write(f"{at}/a", "one")
    equal(client.read(f"{at}/a", quorum=True).value, "one")


@check("values")
def the_root_is_read_only(client, at):
    refused(etcd.EtcdRootReadOnly, client.write, "/", "one")
    refused(etcd.EtcdRootReadOnly, client.delete, "/", recursive=True, dir=True)


@check("values")
def one_connection_carries_many_requests(client, at):
    for number in range(200):
        equal(client.write(f"{at}/{number % 7}", str(number)).value, str(number))
        equal(client.read(f"{at}/{number % 7}").value, str(number))
    pool = client.http.connection_from_url(client.base_uri)
    equal(pool.num_connections, 1)


# ------------------------------------------------------------------------------------------------- directories


@check("directories")
def a_directory_is_made_listed_and_removed(client, at):
    made = client.write(f"{at}/d", None, dir=True)
    equal((made.dir, made.newKey, made.value), (True, True, None))
    equal(list(client.read(f"{at}/d").children)[0].key, f"{at}/d")
    removed = client.delete(f"{at}/d", dir=True)
    equal((removed.action, removed.dir, removed._prev_node.dir), ("delete", True, True))
    equal(f"{at}/d" in client, False)


@check("directories")
def a_directory_lists_its_children(client, at):
    for name in ["c", "a", "b"]:
        client.write(f"{at}/{name}", f"value of {name}")
    client.write(f"{at}/sub/x", "below")
    listed = client.read(at, sorted=True)
    equal(listed.dir, True)
    equal([child.key for child in listed.children], [f"{at}/{name}" for name in ["a", "b", "c", "sub"]])
    equal([child.value for child in listed.children], ["value of a", "value of b", "value of c", None])


@check("directories")
def a_tree_is_read_recursively(client, at):
    keys = [f"{at}/a", f"{at}/d/e/f", f"{at}/d/e/g", f"{at}/d/h", f"{at}/i"]
    for key in keys:
        client.write(key, key)
    tree = client.read(at, recursive=True, sorted=True)
    equal([leaf.key for leaf in tree.leaves], keys)
    equal([leaf.value for leaf in tree.leaves], keys)
    directories = [node.key for node in tree.get_subtree() if node.dir]
    equal(directories, [at, f"{at}/d", f"{at}/d/e"])


@check("directories")
def a_directory_that_is_not_empty_is_kept(client, at):
    client.write(f"{at}/d/a", "one")
    refused(etcd.EtcdNotFile, client.delete, f"{at}/d")
    refused(etcd.EtcdDirNotEmpty, client.delete, f"{at}/d", dir=True)
    equal(client.read(f"{at}/d/a").value, "one")
    client.delete(f"{at}/d", recursive=True, dir=True)
    equal(f"{at}/d" in client, False)


@check("directories")
def files_and_directories_are_told_apart(client, at):
    client.write(f"{at}/file", "one")
    client.write(f"{at}/dir/a", "one")
    refused(etcd.EtcdNotDir, client.write, f"{at}/file/below", "two")
    refused(etcd.EtcdNotFile, client.write, f"{at}/dir", "two")
    refused(etcd.EtcdNotFile, client.write, f"{at}/dir", None, dir=True)


@check("directories")
def hidden_keys_are_not_listed(client, at):
    client.write(f"{at}/_hidden", "one")
    client.write(f"{at}/seen", "two")
    equal([leaf.key for leaf in client.read(at, recursive=True).leaves], [f"{at}/seen"])
    equal(client.read(f"{at}/_hidden").value, "one")


@check("directories")
def in_order_keys_are_in_order(client, at):
    queued = [client.write(f"{at}/queue", str(number), append=True) for number in range(20)]
    equal([result.action for result in queued], ["create"] * 20)
    equal([result.key for result in queued], [f"{at}/queue/{result.createdIndex:020d}" for result in queued])
    listed = client.read(f"{at}/queue", sorted=True, recursive=True)
    equal([leaf.value for leaf in listed.leaves], [str(number) for number in range(20)])


# ---------------------------------------------------------------------------------------------------- conditions


@check("conditions")
def a_key_is_created_once(client, at):
    created = client.write(f"{at}/a", "one", prevExist=False)
    equal((created.action, created.newKey), ("create", True))
    error = refused(etcd.EtcdAlreadyExist, client.write, f"{at}/a", "two", prevExist=False)
    equal((error.payload["cause"], error.payload["index"]), (f"{at}/a", created.modifiedIndex))
    equal(client.read(f"{at}/a").value, "one")


@check("conditions")
def only_a_key_that_exists_is_updated(client, at):
    refused(etcd.EtcdKeyNotFound, client.write, f"{at}/a", "one", prevExist=True)
    created = client.write(f"{at}/a", "one")
    updated = client.write(f"{at}/a", "two", prevExist=True)
    equal((updated.action, updated.value, updated.createdIndex), ("update", "two", created.createdIndex))


@check("conditions")
def a_value_is_tested_and_set(client, at):
    client.write(f"{at}/a", "one")
    swapped = client.test_and_set(f"{at}/a", "two", "one")
    equal((swapped.action, swapped.value, swapped._prev_node.value), ("compareAndSwap", "two", "one"))
    error = refused(etcd.EtcdCompareFailed, client.test_and_set, f"{at}/a", "three", "one")
    equal(error.payload["cause"], "[one != two]")
    if not isinstance(error, ValueError):
        raise AssertionError("python-etcd promises a ValueError")
    equal(client.read(f"{at}/a").value, "two")


@check("conditions")
def an_index_is_compared(client, at):
    written = client.write(f"{at}/a", "one")
    error = refused(etcd.EtcdCompareFailed, client.write, f"{at}/a", "two", prevIndex=written.modifiedIndex + 1)
    equal(error.payload["cause"], f"[{written.modifiedIndex + 1} != {written.modifiedIndex}]")
    swapped = client.write(f"{at}/a", "two", prevIndex=written.modifiedIndex)
    equal((swapped.action, swapped.createdIndex), ("compareAndSwap", written.createdIndex))
    refused(etcd.EtcdValueError, client.write, f"{at}/a", "three", prevIndex="not a number")


@check("conditions")
def a_delete_compares(client, at):
    written = client.write(f"{at}/a", "one")
    refused(etcd.EtcdCompareFailed, client.delete, f"{at}/a", prevValue="two")
    refused(etcd.EtcdCompareFailed, client.delete, f"{at}/a", prevIndex=written.modifiedIndex + 1)
    deleted = client.delete(f"{at}/a", prevValue="one", prevIndex=written.modifiedIndex)
    equal((deleted.action, deleted._prev_node.value), ("compareAndDelete", "one"))


@check("conditions")
def a_result_is_changed_and_written_back(client, at):
    client.write(f"{at}/a", "1")
    mine, theirs = client.read(f"{at}/a"), another(client).read(f"{at}/a")
    mine.value = str(int(mine.value) + 1)
    equal(client.update(mine).value, "2")
    theirs.value = str(int(theirs.value) + 1)
    refused(etcd.EtcdCompareFailed, client.update, theirs)


@check("conditions")
def no_increment_is_lost_among_threads(client, at):
    threads, increments = 8, 25
    client.write(f"{at}/counter", "0")

    def count():
        mine = another(client)
        for _ in range(increments):
            while True:
                now = mine.read(f"{at}/counter")
                now.value = str(int(now.value) + 1)
                try:
                    mine.update(now)
                    break
                except etcd.EtcdCompareFailed:
                    continue

    for counter in [Background(count) for _ in range(threads)]:
        counter.result()
    equal(client.read(f"{at}/counter").value, str(threads * increments))


# ------------------------------------------------------------------------------------------------ time to live


@check("ttl")
def a_ttl_is_shown(client, at):
    written = client.write(f"{at}/a", "one", ttl=LONG)
    equal(written.ttl, LONG)
    # Nanoseconds are more than datetime knows: `2030-01-02T03:04:05.123456789Z`.
    deadline, dot, fraction = written.expiration.rstrip("Z").partition(".")
    datetime.strptime(deadline, "%Y-%m-%dT%H:%M:%S")
    equal((dot, fraction.isdigit(), written.expiration[-1]), (".", True, "Z"))
    read = client.read(f"{at}/a")
    equal(read.expiration, written.expiration)
    if not 0 < read.ttl <= LONG:
        raise AssertionError(f"a ttl of {read.ttl}")


@check("ttl")
def a_key_expires_and_its_watcher_hears(client, at):
    written = client.write(f"{at}/a", "one", ttl=1)
    event = client.watch(f"{at}/a", index=written.modifiedIndex + 1)
    equal((event.action, event.key, event.value), ("expire", f"{at}/a", None))
    equal(event._prev_node.value, "one")
    refused(etcd.EtcdKeyNotFound, client.read, f"{at}/a")


@check("ttl")
def a_directory_expires_with_everything_in_it(client, at):
    made = client.write(f"{at}/d", None, dir=True, ttl=2)
    client.write(f"{at}/d/a", "one")
    client.write(f"{at}/d/e/b", "two")
    event = client.watch(at, index=made.modifiedIndex + 3, recursive=True)
    equal((event.action, event.key, event.dir), ("expire", f"{at}/d", True))
    equal(f"{at}/d/e/b" in client, False)


@check("ttl")
def a_write_without_ttl_keeps_the_key(client, at):
    client.write(f"{at}/a", "one", ttl=LONG)
    equal(client.write(f"{at}/a", "two").ttl, None)
    equal(client.read(f"{at}/a").expiration, None)


@check("ttl")
def a_refresh_keeps_the_value_and_wakes_nobody(client, at):
    written = client.write(f"{at}/a", "one", ttl=LONG)
    refreshed = client.refresh(f"{at}/a", ttl=2 * LONG)
    equal((refreshed.action, refreshed.value, refreshed.ttl), ("update", "one", 2 * LONG))
    equal(refreshed.modifiedIndex, written.modifiedIndex + 1)
    changed = client.write(f"{at}/a", "two")
    event = client.watch(f"{at}/a", index=written.modifiedIndex + 1)
    equal((event.action, event.value, event.modifiedIndex), ("set", "two", changed.modifiedIndex))


@check("ttl")
def a_refresh_needs_a_key_and_a_ttl(client, at):
    refused(etcd.EtcdKeyNotFound, client.refresh, f"{at}/a", ttl=LONG)
    client.write(f"{at}/a", "one", ttl=LONG)
    equal(refused(etcd.EtcdException, client.refresh, f"{at}/a", ttl=None).payload["errorCode"], 212)
    refused(etcd.EtcdCompareFailed, client.refresh, f"{at}/a", ttl=LONG, prevValue="two")
    equal(client.refresh(f"{at}/a", ttl=LONG, prevValue="one").action, "compareAndSwap")


@check("ttl")
def a_ttl_must_be_a_number(client, at):
    refused(etcd.EtcdValueError, client.write, f"{at}/a", "one", ttl="soon")


# ----------------------------------------------------------------------------------------------------- watches


@check("watches")
def a_watch_gets_the_next_event(client, at):
    watch = Background(another(client).watch, f"{at}/a")
    # Whether the watch has reached the server cannot be seen from here, so write until it has.
    writes = {}
    while not watch.done():
        result = client.write(f"{at}/a", str(len(writes)))
        writes[result.modifiedIndex] = result.value
        time.sleep(0.01)
    event = watch.result()
    equal((event.action, event.key), ("set", f"{at}/a"))
    equal(event.value, writes[event.modifiedIndex])


@check("watches")
def a_watch_answers_with_headers_before_the_event(client, at):
    index = client.write(f"{at}/a", "one").modifiedIndex
    # This is how python-etcd learns that the cluster is another one before it waits.
    response = client.http.request(
        "GET", client.base_uri + f"/v2/keys{at}/a", fields={"wait": "true"}, preload_content=False
    )
    equal(response.status, 200)
    equal(int(response.headers["X-Etcd-Index"]), index)
    equal(len(response.headers["X-Etcd-Cluster-Id"]) > 0, True)
    another(client).write(f"{at}/a", "two")
    event = client._result_from_response(response)
    equal((event.value, event._prev_node.value, event.etcd_index), ("two", "one", index))


@check("watches")
def a_watch_with_an_index_gets_the_past(client, at):
    first = client.write(f"{at}/a", "one")
    client.write(f"{at}/other", "x")
    second = client.write(f"{at}/a", "two")
    client.write(f"{at}/a", "three")
    equal(client.watch(f"{at}/a", index=first.modifiedIndex).value, "one")
    event = client.watch(f"{at}/a", index=first.modifiedIndex + 1)
    equal((event.value, event.modifiedIndex), ("two", second.modifiedIndex))


@check("watches")
def a_watch_may_wait_for_the_future(client, at):
    index = client.write(f"{at}/a", "0").modifiedIndex
    watch = Background(another(client).watch, f"{at}/a", index=index + 5)
    for number in range(1, 6):
        client.write(f"{at}/a", str(number))
    event = watch.result()
    equal((event.value, event.modifiedIndex), ("5", index + 5))


@check("watches")
def a_recursive_watch_sees_the_whole_tree(client, at):
    index = client.write(f"{at}/start", "x").modifiedIndex
    client.write(f"{at}/d/e/f", "one")
    client.delete(f"{at}/d/e/f")
    client.write(f"{at}/d/_hidden", "two")
    client.delete(f"{at}/d", recursive=True)
    seen = []
    while len(seen) < 4:
        event = client.watch(at, index=index + 1, recursive=True)
        seen.append((event.action, event.key))
        index = event.modifiedIndex
    # The history does not know of hidden keys; only a watch that is already parked does not hear of them.
    below = [("set", "d/e/f"), ("delete", "d/e/f"), ("set", "d/_hidden"), ("delete", "d")]
    equal(seen, [(action, f"{at}/{key}") for action, key in below])


@check("watches")
def a_recursive_watch_on_the_root_sees_everything(client, at):
    index = client.write(f"{at}/start", "x").modifiedIndex
    parked = Background(another(client).watch, "/", index=index + 2, recursive=True)
    client.write(f"{at}/a", "one")
    client.write(f"{at}/b", "two")
    equal(parked.result().key, f"{at}/b")
    # The same from the history, hidden keys or not.
    equal(client.watch("/", index=index + 1, recursive=True).key, f"{at}/a")


@check("watches")
def a_watch_sees_the_delete_of_a_parent(client, at):
    index = client.write(f"{at}/d/e/f", "one").modifiedIndex
    parked = another(client)
    response = parked.http.request(
        "GET", parked.base_uri + f"/v2/keys{at}/d/e/f", fields={"wait": "true"}, preload_content=False
    )
    equal(int(response.headers["X-Etcd-Index"]), index)
    client.delete(f"{at}/d", recursive=True)
    event = parked._result_from_response(response)
    equal((event.action, event.key), ("delete", f"{at}/d"))


@check("watches")
def an_eternal_watch_misses_nothing(client, at):
    events = 300
    index = client.write(f"{at}/start", "x").modifiedIndex

    def follow():
        seen = []
        for event in another(client).eternal_watch(at, index=index + 1, recursive=True):
            seen.append(event.value)
            if len(seen) == events:
                return seen

    follower = Background(follow)
    for number in range(events):
        client.write(f"{at}/{number % 10}", str(number))
    equal(follower.result(), [str(number) for number in range(events)])


@check("watches")
def many_watchers_hear_one_write(client, at):
    index = client.write(f"{at}/a", "one").modifiedIndex
    watchers = [Background(another(client).watch, f"{at}/a", index=index + 1) for _ in range(50)]
    client.write(f"{at}/a", "two")
    equal([watcher.result().value for watcher in watchers], ["two"] * 50)


@check("watches")
def a_watch_that_times_out_leaves_the_client_usable(client, at):
    client.write(f"{at}/a", "one")
    refused(etcd.EtcdWatchTimedOut, client.watch, f"{at}/a", timeout=0.2)
    equal(client.write(f"{at}/a", "two").value, "two")


@check("watches")
def a_past_that_is_gone_is_error_401(client, at):
    index = client.write(f"{at}/a", "one").modifiedIndex
    for number in range(HISTORY):
        client.write(f"{at}/b", str(number))
    error = refused(etcd.EtcdEventIndexCleared, client.watch, f"{at}/a", index=index)
    equal(error.payload["cause"], f"the requested history has been cleared [{index + 1}/{index}]")
    # What an application does then: it reads, and watches on from there.
    state = client.read(f"{at}/a")
    watch = Background(another(client).watch, f"{at}/a", index=state.etcd_index + 1)
    client.write(f"{at}/a", "two")
    equal(watch.result().value, "two")


# ------------------------------------------------------------------------------------------------------- locks


def held(client, lock):
    """How many hold or wait for a lock."""
    try:
        return len([leaf for leaf in client.read(lock.path, recursive=True).leaves if not leaf.dir])
    except etcd.EtcdKeyNotFound:
        return 0


@check("locks")
def a_lock_is_taken_and_released(client, at):
    lock = etcd.Lock(client, at[1:] + "-lock")
    equal(lock.is_acquired, False)
    equal(lock.acquire(blocking=True, lock_ttl=LONG), True)
    equal(lock.is_acquired, True)
    equal(held(client, lock), 1)
    lock.release()
    equal(lock.is_acquired, False)
    equal(held(client, lock), 0)


@check("locks")
def a_lock_is_taken_again_by_its_holder(client, at):
    lock = etcd.Lock(client, at[1:] + "-lock")
    lock.acquire(lock_ttl=LONG)
    # Renews the lease of the same key.
    equal(lock.acquire(lock_ttl=2 * LONG), True)
    equal(held(client, lock), 1)
    ttl = client.read(lock.lock_key).ttl
    if ttl <= LONG:
        raise AssertionError(f"the lease was not renewed: {ttl}")
    # A process that restarts finds its lock by its id.
    again = etcd.Lock(another(client), at[1:] + "-lock")
    again.uuid = lock.uuid
    equal(again.lock_key, lock.lock_key)
    lock.release()


@check("locks")
def a_lock_that_is_held_is_not_taken(client, at):
    first, second = (etcd.Lock(another(client), at[1:] + "-lock") for _ in range(2))
    first.acquire(lock_ttl=LONG)
    equal(second.acquire(blocking=False, lock_ttl=LONG), False)
    equal((first.is_acquired, second.is_acquired), (True, False))
    second.release()
    first.release()


@check("locks")
def a_lock_is_waited_for(client, at):
    first, second = (etcd.Lock(another(client), at[1:] + "-lock") for _ in range(2))
    first.acquire(lock_ttl=LONG)
    waiting = Background(second.acquire, lock_ttl=LONG)
    until(lambda: held(client, first) == 2)
    equal(waiting.done(), False)
    first.release()
    equal(waiting.result(), True)
    equal((first.is_acquired, second.is_acquired), (False, True))
    second.release()


@check("locks")
def a_lock_whose_holder_died_expires(client, at):
    first, second = (etcd.Lock(another(client), at[1:] + "-lock") for _ in range(2))
    first.acquire(lock_ttl=3)
    equal(second.acquire(lock_ttl=LONG), True)
    equal((first.is_acquired, second.is_acquired), (False, True))
    second.release()


@check("locks")
def a_lock_excludes(client, at):
    threads, turns = 5, 5
    inside, worst, entered = [0], [0], [0]
    guard = threading.Lock()

    def work():
        mine = another(client)
        for _ in range(turns):
            with etcd.Lock(mine, at[1:] + "-lock"):
                with guard:
                    inside[0] += 1
                    entered[0] += 1
                    worst[0] = max(worst[0], inside[0])
                time.sleep(0.002)
                with guard:
                    inside[0] -= 1

    for worker in [Background(work) for _ in range(threads)]:
        worker.result()
    equal((worst[0], entered[0]), (1, threads * turns))


# --------------------------------------------------------------------------------------------------- elections


class Candidate:
    """Leader election as Patroni does it on python-etcd: one key, created by whoever wins, kept alive by its ttl."""

    def __init__(self, client, at, name, ttl=LONG):
        self.client, self.key, self.name, self.ttl = client, f"{at}/leader", name, ttl

    def run(self):
        """Tries to become leader."""
        try:
            return self.client.write(self.key, self.name, ttl=self.ttl, prevExist=False).newKey
        except etcd.EtcdAlreadyExist:
            return False

    def stay(self):
        """Renews the lease; false when another has it."""
        try:
            self.client.test_and_set(self.key, self.name, self.name, self.ttl)
            return True
        except (etcd.EtcdCompareFailed, etcd.EtcdKeyNotFound):
            return False

    def resign(self):
        return self.client.delete(self.key, prevValue=self.name)

    def leader(self):
        try:
            return self.client.read(self.key, quorum=True).value
        except etcd.EtcdKeyNotFound:
            return None


@check("elections")
def one_candidate_wins(client, at):
    candidates = [Candidate(another(client), at, f"node{number}") for number in range(10)]
    equal(candidates[0].leader(), None)
    start = threading.Barrier(len(candidates))

    def run(candidate):
        start.wait(LIMIT)
        return candidate.run()

    votes = [Background(run, candidate) for candidate in candidates]
    winners = [candidate for candidate, vote in zip(candidates, votes) if vote.result()]
    equal(len(winners), 1)
    equal({candidate.leader() for candidate in candidates}, {winners[0].name})
    equal([candidate.name for candidate in candidates if candidate.stay()], [winners[0].name])


@check("elections")
def a_leader_that_resigns_is_followed(client, at):
    first, second = Candidate(client, at, "first"), Candidate(another(client), at, "second")
    equal((first.run(), second.run()), (True, False))
    seen = second.client.read(second.key)
    watch = Background(another(client).watch, second.key, index=seen.modifiedIndex + 1)
    refused(etcd.EtcdCompareFailed, second.resign)
    first.resign()
    equal(watch.result().action, "compareAndDelete")
    equal((second.run(), first.run(), first.stay()), (True, False, False))
    equal(first.leader(), "second")


@check("elections")
def a_leader_that_died_is_followed(client, at):
    first, second = Candidate(client, at, "first", ttl=3), Candidate(another(client), at, "second")
    equal(first.run(), True)
    index = client.read(first.key).modifiedIndex
    # Renewals are events too: wait for the one that says the lease is over.
    event = second.client.watch(second.key, index=index + 1)
    equal((event.action, event._prev_node.value), ("expire", "first"))
    equal((second.run(), first.stay(), first.leader()), (True, False, "second"))


@check("elections")
def a_leader_stays_while_it_renews(client, at):
    first = Candidate(client, at, "first")
    equal(first.run(), True)
    created = client.read(first.key).createdIndex
    for _ in range(20):
        equal(first.stay(), True)
    now = client.read(first.key)
    equal((now.createdIndex, now.modifiedIndex), (created, created + 20))


# ------------------------------------------------------------------------------------------------------ service


@check("service")
def the_version_is_that_of_the_api(client, at):
    equal((client.version, client.cluster_version), ("3.4.23", "3.4.0"))


@check("service")
def the_machines_are_listed(client, at):
    equal(client.machines, [client.base_uri])


@check("service")
def the_members_and_the_leader_are_known(client, at):
    members = client.members
    equal(len(members), 1)
    (identity, member), = members.items()
    equal((member["id"], member["name"], member["clientURLs"]), (identity, "default", [client.base_uri]))
    equal(client.leader, member)


@check("service")
def the_statistics_are_told(client, at):
    stats = client.stats
    equal((stats["name"], stats["state"]), ("default", "StateLeader"))
    equal(stats["leaderInfo"]["leader"], stats["id"])
    before = client.store_stats["setsSuccess"]
    client.write(f"{at}/a", "one")
    equal(client.store_stats["setsSuccess"], before + 1)
    equal(client.leader_stats["leader"], stats["id"])


@check("service")
def a_client_finds_the_server_that_lives(client, at):
    live = urlparse(client.base_uri)
    # Port 1 is nobody's.
    hosts = ((live.hostname, 1), (live.hostname, live.port))
    finder = etcd.Client(host=hosts, allow_reconnect=True, read_timeout=LIMIT)
    finder.write(f"{at}/a", "one")
    equal(finder.base_uri, client.base_uri)


# --------------------------------------------------------------------------------------------------------- auth


@check("auth")
def users_and_roles_guard_the_keys(client, at):
    equal(Auth(client).active, False)
    root = EtcdUser(client, "root")
    root.password = "secret"
    root.write()
    role = EtcdRole(client, "app")
    role.grant(f"{at}/app/*", "RW")
    role.write()
    user = EtcdUser(client, "anna")
    user.password, user.roles = "word", ["app"]
    user.write()
    read = EtcdRole(client, "app")
    read.read()
    equal(read.acls, {f"{at}/app/*": "RW"})
    Auth(client).active = True
    admin = another(client, username="root", password="secret")
    try:
        equal(Auth(admin).active, True)
        guest = EtcdRole(admin, "guest")
        guest.read()
        guest.revoke("/*", "W")
        guest.write()
        refused(etcd.EtcdInsufficientPermissions, client.write, f"{at}/app/a", "one")
        anna = another(client, username="anna", password="word")
        equal(anna.write(f"{at}/app/a", "one").value, "one")
        refused(etcd.EtcdInsufficientPermissions, anna.write, f"{at}/other", "two")
        liar = another(client, username="anna", password="wrong")
        refused(etcd.EtcdInsufficientPermissions, liar.write, f"{at}/app/a", "two")
        equal(client.read(f"{at}/app/a").value, "one")
    finally:
        Auth(admin).active = False
    equal(Auth(client).active, False)
    for thing in [EtcdUser(client, "anna"), EtcdRole(client, "app"), EtcdUser(client, "root")]:
        thing.delete()


def main():
    url, groups = sys.argv[1], sys.argv[2:] or list(GROUPS)
    client = connect(url)
    for group in groups:
        for function in GROUPS[group]:
            name = f"{group}/{function.__name__}"
            try:
                function(client, f"/py-{group}-{function.__name__}")
            except Exception:
                print(f"FAIL {name}", flush=True)
                traceback.print_exc()
                return 1
            print(f"ok {name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
