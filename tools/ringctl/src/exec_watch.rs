//! `exec-watch`: a program for every change.
//!
//! Owns: the processes it starts. Touches: the cluster, child processes. Always: events start their programs in order
//! without waiting for earlier ones, as in etcdctl, but no more than `RUNNING_MAX` run at a time; what a program does
//! or how it ends changes nothing here, only one that cannot be started ends the watch.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use ringd_client::Response;
use signal_hook::consts::SIGINT;

use crate::{Exit, Invocation, Outcome, connect, output};

/// A burst of events must not become a burst of processes that takes the machine down.
const RUNNING_MAX: usize = 64;
/// How often a full house is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// Whoever interrupts a watch has seen enough: that is success. The handler does nothing but leave.
pub fn interrupt_is_success() -> Outcome {
    let always = Arc::new(AtomicBool::new(true));
    match signal_hook::flag::register_conditional_shutdown(SIGINT, 0, always) {
        Ok(_) => Ok(()),
        Err(e) => Err(output::refuse(&format!("cannot handle interrupts: {e}"))),
    }
}

pub fn run(call: &Invocation) -> Outcome {
    interrupt_is_success()?;
    let mut client = connect::client(&call.globals)?;
    let [key, program, arguments @ ..] = call.args.as_slice() else {
        return Err(output::refuse("key and command to exec required"));
    };
    let mut watch = client.watch(key, call.flags.uint("after-index"), call.flags.is_set("recursive"));
    let mut running: Vec<Child> = Vec::new();
    loop {
        let response = watch.next_event().map_err(|e| output::error(&e, Exit::Server))?;
        let Some(node) = &response.node else { continue };
        if node.dir {
            eprintln!("Ignored dir {} change", node.key);
            continue;
        }
        reap(&mut running);
        while running.len() >= RUNNING_MAX {
            thread::sleep(POLL);
            reap(&mut running);
        }
        match Command::new(program).args(arguments).envs(environment(&response)).spawn() {
            Ok(child) => running.push(child),
            Err(e) => {
                eprintln!("ringctl: cannot run {program}: {e}");
                return Err(Exit::BadArguments);
            }
        }
    }
}

/// Forgets the programs that have ended. One that cannot be asked has no more to tell.
fn reap(running: &mut Vec<Child>) {
    running.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

fn environment(response: &Response) -> [(&'static str, String); 4] {
    let node = response.node.clone().unwrap_or_default();
    [
        ("ETCD_WATCH_ACTION", response.action.clone()),
        ("ETCD_WATCH_KEY", node.key),
        ("ETCD_WATCH_VALUE", node.value),
        ("ETCD_WATCH_MODIFIED_INDEX", node.modified_index.to_string()),
    ]
}
