// node-etcd, unmodified, against any server that speaks etcd's v2 API.
//
//     node node_etcd.js http://127.0.0.1:2379 [GROUP...]
//
// Runs the checks of the given groups (all of them if none is given) in the order below, prints one line per check, and
// exits with 1 at the first that fails. Every check works under a directory of its own, so the server may hold other
// data. Nothing here measures time: what has to happen first is waited for, and a check that waits in vain fails after
// LIMIT. Where node-etcd is (and what it needs) says NODE_PATH.
'use strict';

const assert = require('node:assert/strict');
const net = require('node:net');

// node-etcd's synchronous calls need a native module that turns the event loop by hand. No check uses them, and the
// module need not be built.
require.cache[require.resolve('deasync')] = {
  exports: {
    loopWhile() {
      throw new Error('a synchronous call');
    },
  },
};
const Etcd = require('node-etcd');

// Milliseconds after which something that must happen has not happened.
const LIMIT = 20_000;
// Events a server keeps for watchers that ask for the past; older ones are answered with error 401.
const HISTORY = 1000;
// A lease that outlives any check, in seconds.
const LONG = 600;

const url = process.argv[2];

// One application's client: its methods with promises. `call` yields what the server said and the headers.
class Client {
  constructor(hosts = url, options = {}) {
    this.etcd = new Etcd(hosts, options);
  }

  call(method, ...parameters) {
    return new Promise((resolve, reject) => {
      this.etcd[method](...parameters, (error, body, headers) => {
        if (error) reject(error);
        else resolve({ ...body, headers });
      });
    });
  }

  set(...parameters) { return this.call('set', ...parameters); }
  get(...parameters) { return this.call('get', ...parameters); }
  del(...parameters) { return this.call('del', ...parameters); }
  mkdir(...parameters) { return this.call('mkdir', ...parameters); }
  rmdir(...parameters) { return this.call('rmdir', ...parameters); }
  create(...parameters) { return this.call('create', ...parameters); }
  watch(...parameters) { return this.call('watch', ...parameters); }
  watchIndex(...parameters) { return this.call('watchIndex', ...parameters); }
  compareAndSwap(...parameters) { return this.call('compareAndSwap', ...parameters); }
  compareAndDelete(...parameters) { return this.call('compareAndDelete', ...parameters); }
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// The etcd error that a call must end with.
async function refused(code, promise) {
  const outcome = await promise.then((body) => ({ body }), (error) => ({ error }));
  assert.ok(outcome.error, `error ${code} was expected, got ${JSON.stringify(outcome.body)}`);
  assert.equal(outcome.error.errorCode, code, outcome.error.stack);
  return outcome.error.error;
}

const numbers = (count) => Array.from({ length: count }, (_, number) => number);
const keys = (listing) => (listing.node.nodes ?? []).map((node) => node.key);

const GROUPS = {};

// --------------------------------------------------------------------------------------------------------- values

GROUPS.values = {
  async a_value_is_set_and_got(client, at) {
    const set = await client.set(`${at}/a`, 'one');
    assert.equal(set.action, 'set');
    assert.deepEqual([set.node.key, set.node.value], [`${at}/a`, 'one']);
    assert.equal(set.prevNode, undefined);
    assert.equal(set.headers['x-etcd-index'], String(set.node.modifiedIndex));
    assert.match(set.headers['x-etcd-cluster-id'], /^[0-9a-f]+$/);
    const got = await client.get(`${at}/a`);
    assert.equal(got.action, 'get');
    assert.deepEqual(got.node, set.node);
  },

  async a_value_is_replaced(client, at) {
    const first = await client.set(`${at}/a`, 'one');
    const second = await client.set(`${at}/a`, 'two');
    assert.deepEqual(second.prevNode, first.node);
    assert.equal(second.node.modifiedIndex, first.node.modifiedIndex + 1);
  },

  async a_key_that_is_missing_is_not_found(client, at) {
    const error = await refused(100, client.get(`${at}/a/b`));
    assert.deepEqual([error.message, error.cause], ['Key not found', at]);
    await refused(100, client.del(`${at}/a`));
  },

  async a_value_may_be_anything(client, at) {
    const values = ['', 'a&b=c+d%e', '<b>"quoted"</b>', 'größe 長さ 🙂', 'tab\tline\r\n', 'x'.repeat(200_000)];
    for (const [number, value] of values.entries()) {
      assert.equal((await client.set(`${at}/${number}`, value)).node.value, value);
      assert.equal((await client.get(`${at}/${number}`)).node.value, value);
    }
  },

  async a_key_may_be_anything(client, at) {
    for (const name of ['größe', 'with space', 'a+b', 'a=b&c', '長さ/🙂']) {
      const encoded = `${at}/${name.split('/').map(encodeURIComponent).join('/')}`;
      assert.equal((await client.set(encoded, 'here')).node.key, `${at}/${name}`);
      assert.equal((await client.get(encoded)).node.value, 'here');
    }
  },

  async a_value_is_deleted(client, at) {
    const set = await client.set(`${at}/a`, 'one');
    const deleted = await client.del(`${at}/a`);
    assert.deepEqual([deleted.action, deleted.node.key, deleted.node.value], ['delete', `${at}/a`, undefined]);
    assert.deepEqual(deleted.prevNode, set.node);
    await refused(100, client.get(`${at}/a`));
  },

  async the_root_is_read_only(client) {
    await refused(107, client.set('/', 'one'));
    await refused(107, client.rmdir('/', { recursive: true }));
  },

  async many_requests_at_once_are_answered(client, at) {
    const count = 500;
    const set = await Promise.all(numbers(count).map((number) => client.set(`${at}/${number}`, `value ${number}`)));
    assert.equal(new Set(set.map((answer) => answer.node.modifiedIndex)).size, count);
    const got = await Promise.all(numbers(count).map((number) => client.get(`${at}/${number}`)));
    assert.deepEqual(got.map((answer) => answer.node.value), numbers(count).map((number) => `value ${number}`));
  },

  async a_raw_request_is_answered(client, at) {
    await client.call('raw', 'PUT', `v2/keys${at}/a`, 'one', {});
    assert.equal((await client.call('raw', 'GET', `v2/keys${at}/a`, null, { quorum: true })).node.value, 'one');
  },
};

// ---------------------------------------------------------------------------------------------------- directories

GROUPS.directories = {
  async a_directory_is_made_and_removed(client, at) {
    const made = await client.mkdir(`${at}/d`);
    assert.deepEqual([made.action, made.node.dir, made.node.value], ['set', true, undefined]);
    await refused(102, client.mkdir(`${at}/d`));
    const removed = await client.rmdir(`${at}/d`);
    assert.deepEqual([removed.action, removed.node.dir], ['delete', true]);
    assert.deepEqual(removed.prevNode, made.node);
  },

  async a_directory_that_is_not_empty_is_kept(client, at) {
    await client.set(`${at}/d/a`, 'one');
    await refused(102, client.del(`${at}/d`));
    await refused(108, client.rmdir(`${at}/d`));
    await client.rmdir(`${at}/d`, { recursive: true });
    await refused(100, client.get(`${at}/d/a`));
  },

  async a_tree_is_listed(client, at) {
    for (const name of ['c', 'a', 'd/e/f', '_hidden', 'b']) await client.set(`${at}/${name}`, name);
    const listed = await client.get(at, { sorted: true });
    assert.deepEqual(keys(listed), ['a', 'b', 'c', 'd'].map((name) => `${at}/${name}`));
    assert.equal(listed.node.nodes[3].nodes, undefined);
    const tree = await client.get(at, { sorted: true, recursive: true });
    assert.deepEqual(tree.node.nodes[3].nodes[0].nodes[0].value, 'd/e/f');
  },

  async files_and_directories_are_told_apart(client, at) {
    await client.set(`${at}/file`, 'one');
    await client.mkdir(`${at}/dir`);
    await refused(104, client.set(`${at}/file/below`, 'two'));
    await refused(102, client.set(`${at}/dir`, 'two'));
  },

  async in_order_keys_are_in_order(client, at) {
    const count = 50;
    const created = await Promise.all(numbers(count).map((number) => client.create(`${at}/queue`, String(number))));
    for (const { action, node } of created) {
      assert.equal(action, 'create');
      assert.equal(node.key, `${at}/queue/${String(node.createdIndex).padStart(20, '0')}`);
    }
    created.sort((one, other) => one.node.createdIndex - other.node.createdIndex);
    const listed = await client.get(`${at}/queue`, { sorted: true });
    assert.deepEqual(listed.node.nodes, created.map((answer) => answer.node));
  },
};

// ----------------------------------------------------------------------------------------------------- conditions

GROUPS.conditions = {
  async a_key_is_created_once(client, at) {
    assert.equal((await client.set(`${at}/a`, 'one', { prevExist: false })).action, 'create');
    assert.equal((await refused(105, client.set(`${at}/a`, 'two', { prevExist: false }))).cause, `${at}/a`);
  },

  async only_a_key_that_exists_is_updated(client, at) {
    await refused(100, client.set(`${at}/a`, 'one', { prevExist: true }));
    await client.set(`${at}/a`, 'one');
    assert.equal((await client.set(`${at}/a`, 'two', { prevExist: true })).action, 'update');
  },

  async a_value_is_compared_and_swapped(client, at) {
    await client.set(`${at}/a`, 'one');
    const swapped = await client.compareAndSwap(`${at}/a`, 'two', 'one');
    assert.deepEqual([swapped.action, swapped.node.value, swapped.prevNode.value], ['compareAndSwap', 'two', 'one']);
    assert.equal((await refused(101, client.compareAndSwap(`${at}/a`, 'three', 'one'))).cause, '[one != two]');
    assert.equal((await client.call('testAndSet', `${at}/a`, 'three', 'two', { ttl: LONG })).node.ttl, LONG);
  },

  async a_value_is_compared_and_deleted(client, at) {
    await client.set(`${at}/a`, 'one');
    await refused(101, client.compareAndDelete(`${at}/a`, 'two'));
    const deleted = await client.compareAndDelete(`${at}/a`, 'one');
    assert.deepEqual([deleted.action, deleted.prevNode.value], ['compareAndDelete', 'one']);
    await refused(100, client.call('testAndDelete', `${at}/a`, 'one'));
  },

  async an_index_is_compared(client, at) {
    const { node } = await client.set(`${at}/a`, 'one');
    await refused(101, client.set(`${at}/a`, 'two', { prevIndex: node.modifiedIndex + 1 }));
    await client.set(`${at}/a`, 'two', { prevIndex: node.modifiedIndex });
    await refused(101, client.del(`${at}/a`, { prevIndex: node.modifiedIndex }));
    await refused(203, client.set(`${at}/a`, 'two', { prevIndex: 'no number' }));
  },

  async no_increment_is_lost(client, at) {
    const counters = 8, increments = 25;
    await client.set(`${at}/counter`, '0');
    const count = async () => {
      const mine = new Client();
      for (let done = 0; done < increments;) {
        const { value } = (await mine.get(`${at}/counter`)).node;
        try {
          await mine.compareAndSwap(`${at}/counter`, String(Number(value) + 1), value);
          done += 1;
        } catch (error) {
          if (error.errorCode !== 101) throw error;
        }
      }
    };
    await Promise.all(numbers(counters).map(count));
    assert.equal((await client.get(`${at}/counter`)).node.value, String(counters * increments));
  },
};

// ----------------------------------------------------------------------------------------------------- time to live

GROUPS.ttl = {
  async a_ttl_is_shown(client, at) {
    const { node } = await client.set(`${at}/a`, 'one', { ttl: LONG });
    assert.equal(node.ttl, LONG);
    assert.ok(!Number.isNaN(Date.parse(node.expiration)), node.expiration);
    assert.equal((await client.get(`${at}/a`)).node.expiration, node.expiration);
  },

  async a_key_expires_and_its_watcher_hears(client, at) {
    const { node } = await client.set(`${at}/a`, 'one', { ttl: 1 });
    const event = await client.watchIndex(`${at}/a`, node.modifiedIndex + 1);
    assert.deepEqual([event.action, event.node.key, event.prevNode.value], ['expire', `${at}/a`, 'one']);
    await refused(100, client.get(`${at}/a`));
  },

  async a_directory_expires(client, at) {
    const { node } = await client.mkdir(`${at}/d`, { ttl: 1 });
    const event = await client.watchIndex(at, node.modifiedIndex + 1, { recursive: true });
    assert.deepEqual([event.action, event.node.key, event.node.dir], ['expire', `${at}/d`, true]);
  },

  async a_refresh_keeps_the_value_and_wakes_nobody(client, at) {
    const { node } = await client.set(`${at}/a`, 'one', { ttl: LONG });
    const refreshed = await client.set(`${at}/a`, null, { ttl: 2 * LONG, refresh: true, prevExist: true });
    assert.deepEqual([refreshed.action, refreshed.node.value, refreshed.node.ttl], ['update', 'one', 2 * LONG]);
    const changed = await client.set(`${at}/a`, 'two');
    const event = await client.watchIndex(`${at}/a`, node.modifiedIndex + 1);
    assert.deepEqual([event.action, event.node], ['set', changed.node]);
  },

  async a_refresh_needs_a_key_and_a_ttl(client, at) {
    await refused(100, client.set(`${at}/a`, null, { ttl: LONG, refresh: true, prevExist: true }));
    await refused(212, client.set(`${at}/a`, null, { refresh: true }));
    await refused(211, client.set(`${at}/a`, 'one', { ttl: LONG, refresh: true }));
  },
};

// -------------------------------------------------------------------------------------------------------- watches

// Collects a watcher's events until there are `count`; then stops it.
function collect(watcher, count) {
  return new Promise((resolve, reject) => {
    const seen = [];
    watcher.on('error', reject);
    watcher.on('reconnect', (error) => reject(new Error(`reconnected: ${error.error ?? error}`)));
    watcher.on('change', (event) => {
      seen.push(event);
      if (seen.length === count) {
        watcher.stop();
        resolve(seen);
      }
    });
  });
}

GROUPS.watches = {
  async a_watch_gets_the_next_event(client, at) {
    let event;
    const watch = new Client().watch(`${at}/a`).then((answer) => { event = answer; });
    // Whether the watch has reached the server cannot be seen from here, so write until it has.
    const written = new Map();
    while (!event) {
      const { node } = await client.set(`${at}/a`, String(written.size));
      written.set(node.modifiedIndex, node.value);
      await sleep(10);
    }
    await watch;
    assert.equal(event.node.value, written.get(event.node.modifiedIndex));
  },

  async a_watch_with_an_index_gets_the_past(client, at) {
    const first = await client.set(`${at}/a`, 'one');
    await client.set(`${at}/other`, 'x');
    const second = await client.set(`${at}/a`, 'two');
    await client.set(`${at}/a`, 'three');
    const event = await client.watchIndex(`${at}/a`, first.node.modifiedIndex + 1);
    assert.deepEqual([event.node, event.prevNode], [second.node, first.node]);
  },

  async a_watcher_emits_every_change(client, at) {
    const count = 300;
    const { node } = await client.set(`${at}/start`, 'x');
    const watcher = new Client().etcd.watcher(at, node.modifiedIndex + 1, { recursive: true });
    const seen = collect(watcher, count);
    for (const number of numbers(count)) await client.set(`${at}/${number % 10}`, String(number));
    assert.deepEqual((await seen).map((event) => event.node.value), numbers(count).map(String));
  },

  async a_watcher_emits_the_action(client, at) {
    const { node } = await client.set(`${at}/start`, 'x');
    const watcher = new Client().etcd.watcher(`${at}/a`, node.modifiedIndex + 1);
    const actions = [];
    for (const action of ['set', 'create', 'update', 'compareAndSwap', 'compareAndDelete', 'delete', 'expire']) {
      watcher.on(action, (event) => actions.push([action, event.node.key]));
    }
    const seen = collect(watcher, 8);
    await client.set(`${at}/a`, '1');
    await client.set(`${at}/a`, '2', { prevExist: true });
    await client.compareAndSwap(`${at}/a`, '3', '2');
    await client.compareAndDelete(`${at}/a`, '3');
    await client.set(`${at}/a`, '4', { prevExist: false });
    await client.del(`${at}/a`);
    await client.set(`${at}/a`, '5', { ttl: 1 });
    assert.equal((await seen).length, 8);
    // The last of a watcher's events is emitted by action after it was emitted as a change.
    await sleep(0);
    const expected = ['set', 'update', 'compareAndSwap', 'compareAndDelete', 'create', 'delete', 'set', 'expire'];
    assert.deepEqual(actions, expected.map((action) => [action, `${at}/a`]));
  },

  async a_watcher_sees_the_delete_of_a_parent(client, at) {
    const { node } = await client.set(`${at}/d/e/f`, 'one');
    const seen = collect(new Client().etcd.watcher(`${at}/d`, node.modifiedIndex + 1, { recursive: true }), 1);
    await client.rmdir(`${at}/d`, { recursive: true });
    const [event] = await seen;
    assert.deepEqual([event.action, event.node.key], ['delete', `${at}/d`]);
  },

  async many_watchers_hear_one_write(client, at) {
    const { node } = await client.set(`${at}/a`, 'one');
    const watches = numbers(80).map(() => new Client().watchIndex(`${at}/a`, node.modifiedIndex + 1));
    await client.set(`${at}/a`, 'two');
    for (const event of await Promise.all(watches)) assert.equal(event.node.value, 'two');
  },

  async a_watch_that_is_cancelled_disturbs_nobody(client, at) {
    const { node } = await client.set(`${at}/a`, 'one');
    const kept = client.watchIndex(`${at}/a`, node.modifiedIndex + 1);
    const cancelled = numbers(20).map(() => client.etcd.watchIndex(`${at}/a`, node.modifiedIndex + 1, {}, () => {
      throw new Error('a cancelled watch was answered');
    }));
    await client.get(`${at}/a`);
    for (const token of cancelled) token.abort();
    await client.set(`${at}/a`, 'two');
    assert.equal((await kept).node.value, 'two');
  },

  async a_watcher_whose_past_is_gone_resyncs(client, at) {
    const { node } = await client.set(`${at}/a`, 'one');
    for (let done = 0; done < HISTORY; done += 100) {
      await Promise.all(numbers(100).map((number) => client.set(`${at}/b`, String(done + number))));
    }
    const error = await refused(401, client.watchIndex(`${at}/a`, node.modifiedIndex));
    const { modifiedIndex } = node;
    assert.equal(error.cause, `the requested history has been cleared [${modifiedIndex + 1}/${modifiedIndex}]`);
    const watcher = new Client().etcd.watcher(`${at}/a`, modifiedIndex);
    const seen = collect(watcher, 1);
    await new Promise((resolve) => watcher.on('resync', resolve));
    // It goes on from the index of the error.
    await client.set(`${at}/a`, 'two');
    assert.equal((await seen)[0].node.value, 'two');
  },
};

// ------------------------------------------------------------------------------------------- elections and locks

GROUPS.elections = {
  async one_candidate_wins(client, at) {
    const run = (name) => new Client().set(`${at}/leader`, name, { prevExist: false, ttl: LONG })
      .then(() => name, (error) => {
        if (error.errorCode !== 105) throw error;
        return null;
      });
    const winners = (await Promise.all(numbers(20).map((number) => run(`node${number}`)))).filter(Boolean);
    assert.equal(winners.length, 1);
    assert.equal((await client.get(`${at}/leader`, { quorum: true })).node.value, winners[0]);
    // The leader renews its lease; the others cannot.
    await client.compareAndSwap(`${at}/leader`, winners[0], winners[0], { ttl: LONG });
    await refused(101, client.compareAndSwap(`${at}/leader`, 'other', 'other', { ttl: LONG }));
    await refused(101, client.compareAndDelete(`${at}/leader`, 'other'));
  },

  async a_leader_that_died_is_followed(client, at) {
    const { node } = await client.set(`${at}/leader`, 'first', { prevExist: false, ttl: 1 });
    const [event] = await collect(new Client().etcd.watcher(`${at}/leader`, node.modifiedIndex + 1), 1);
    assert.deepEqual([event.action, event.prevNode.value], ['expire', 'first']);
    await client.set(`${at}/leader`, 'second', { prevExist: false, ttl: LONG });
    await refused(101, client.compareAndSwap(`${at}/leader`, 'first', 'first', { ttl: LONG }));
  },

  async a_lock_passes_from_one_to_the_next(client, at) {
    // Each puts an in-order key; the lowest holds the lock; each waits for the one before it to go.
    const holders = [];
    let inside = 0;
    const work = async (name) => {
      const mine = new Client();
      const own = (await mine.create(`${at}/lock`, name, { ttl: LONG })).node;
      for (;;) {
        const queue = (await mine.get(`${at}/lock`, { sorted: true, quorum: true })).node.nodes;
        const place = queue.findIndex((node) => node.key === own.key);
        if (place === 0) break;
        const before = queue[place - 1];
        await mine.watchIndex(before.key, before.modifiedIndex + 1);
      }
      inside += 1;
      assert.equal(inside, 1);
      holders.push(own.createdIndex);
      await sleep(2);
      inside -= 1;
      await mine.del(own.key);
    };
    await Promise.all(numbers(10).map((number) => work(`worker ${number}`)));
    assert.equal(holders.length, 10);
    assert.deepEqual(holders, [...holders].sort((one, other) => one - other));
    assert.deepEqual(keys(await client.get(`${at}/lock`)), []);
  },
};

// -------------------------------------------------------------------------------------------------------- several hosts

GROUPS.hosts = {
  async a_client_finds_the_server_that_lives(_, at) {
    // A port that was free a moment ago.
    const dead = await new Promise((resolve) => {
      const server = net.createServer().listen(0, '127.0.0.1', () => {
        const { port } = server.address();
        server.close(() => resolve(port));
      });
    });
    // The order is shuffled for every request: among twenty, one at least begins with the dead host.
    const client = new Client([`http://127.0.0.1:${dead}`, url]);
    for (const number of numbers(20)) {
      assert.equal((await client.set(`${at}/${number}`, 'one')).node.value, 'one');
    }
  },
};

// -------------------------------------------------------------------------------------------------------- service

GROUPS.service = {
  async the_version_is_that_of_the_api(client) {
    const { etcdserver, etcdcluster } = await client.call('version');
    assert.deepEqual([etcdserver, etcdcluster], ['3.4.23', '3.4.0']);
  },

  async the_statistics_are_told(client) {
    const self = await client.call('selfStats');
    assert.deepEqual([self.name, self.state], ['default', 'StateLeader']);
    assert.equal((await client.call('leaderStats')).leader, self.id);
  },

  async the_members_are_known(client) {
    const { members } = await client.call('raw', 'GET', 'v2/members', null, {});
    assert.deepEqual(members.map((member) => [member.name, member.clientURLs]), [['default', [url]]]);
    const leader = await client.call('raw', 'GET', 'v2/members/leader', null, {});
    assert.equal(leader.id, members[0].id);
  },

  async the_keys_of_old_are_gone(client) {
    // node-etcd still asks for the machines where etcd 0.4 had them.
    await refused(100, client.call('machines'));
  },
};

async function main() {
  const wanted = process.argv.length > 3 ? process.argv.slice(3) : Object.keys(GROUPS);
  for (const group of wanted) {
    for (const [name, check] of Object.entries(GROUPS[group])) {
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not done within ${LIMIT} ms`)), LIMIT);
      });
      try {
        await Promise.race([check(new Client(), `/node-${group}-${name}`), late]);
      } catch (error) {
        console.log(`FAIL ${group}/${name}`);
        console.error(error);
        process.exit(1);
      }
      clearTimeout(timer);
      console.log(`ok ${group}/${name}`);
    }
  }
  // Connections that are kept alive would keep the process alive, too.
  process.exit(0);
}

main();
