//! Damaged and torn write-ahead logs, and a machine that does not allow io_uring.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::{Client, PATIENCE, Server, Site, skip, wait_for};

fn put(site: &Site, count: u32) {
    let mut client = Client::open(site.client_port).expect("connect");
    for number in 0..count {
        let answer = client.request("PUT", &format!("/v2/keys/k{number}"), "value=v").expect("write");
        assert_eq!(answer.status, 201);
    }
}

fn tail_segment(data_dir: &Path) -> PathBuf {
    let mut names: Vec<PathBuf> = std::fs::read_dir(data_dir.join("member/wal"))
        .expect("a wal folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .filter(|path| !path.file_name().expect("a name").to_string_lossy().starts_with("spare"))
        .collect();
    names.sort();
    names.pop().expect("a segment")
}

/// Flips one bit of a file.
fn flip(file: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let handle = std::fs::File::options().read(true).write(true).open(file).expect("open");
    let mut byte = [0];
    handle.read_exact_at(&mut byte, offset).expect("read");
    handle.write_all_at(&[byte[0] ^ 1], offset).expect("write");
    handle.sync_all().expect("sync");
}

fn last_used_byte(file: &Path) -> u64 {
    let bytes = std::fs::read(file).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).expect("something was written") as u64
}

#[test]
fn a_bit_flipped_in_the_durable_part_is_refused_with_file_and_offset() {
    let site = Site::new();
    let server = site.start();
    put(&site, 50);
    server.kill();
    let file = tail_segment(&site.data_dir);
    // The first page after the header holds the first frames; dozens of later ones vouch for them.
    flip(&file, 4096 + 100);
    let mut refused = site.spawn();
    assert_eq!(refused.wait(Duration::from_secs(30)).code(), Some(1));
    let said = refused.stderr();
    for part in [file.file_name().unwrap().to_str().unwrap(), "offset", "ringwal"] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

#[test]
fn a_torn_end_is_cut_with_one_line_and_the_rest_is_there() {
    let site = Site::new();
    let server = site.start();
    put(&site, 20);
    server.kill();
    let file = tail_segment(&site.data_dir);
    flip(&file, last_used_byte(&file));
    let server = site.start();
    let lines = server.stderr().lines().filter(|line| line.contains("torn end")).count();
    assert_eq!(lines, 1, "{}", server.stderr());
    let mut client = Client::open(site.client_port).expect("connect");
    // Only the last frame was torn: the write before it is certainly there.
    for number in 0..19 {
        assert_eq!(client.request("GET", &format!("/v2/keys/k{number}"), "").expect("read").status, 200);
    }
    assert_eq!(client.request("PUT", "/v2/keys/after", "value=1").expect("write").status, 201);
    drop(server);
    let again = site.start();
    assert!(!again.stderr().contains("torn end"), "the cut was final");
}

#[test]
fn a_machine_without_io_uring_is_told_so() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("a_machine_without_io_uring_is_told_so", "strace is not installed");
    }
    let site = Site::new();
    let ringd = site.command();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", "inject=io_uring_setup:error=EPERM"]);
    traced.arg(ringd.get_program()).args(ringd.get_args());
    let output = traced.output().expect("strace runs");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("PTRACE") {
        return skip("a_machine_without_io_uring_is_told_so", "tracing is not permitted");
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("io_uring is not available"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn too_little_lockable_memory_is_named_with_its_remedy() {
    let site = Site::new();
    let ringd = site.command();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -l 64 && exec \"$0\" \"$@\""]).arg(ringd.get_program()).args(ringd.get_args());
    let output = limited.output().expect("sh runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("locked memory is 65536 bytes") && said.contains("LimitMEMLOCK"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_segment_truncated_under_the_map_ends_the_process_with_a_message() {
    use std::os::unix::process::ExitStatusExt;
    let site = Site::new();
    let mut server = site.start();
    put(&site, 1);
    let file = tail_segment(&site.data_dir);
    std::fs::File::options().write(true).open(&file).expect("open").set_len(4096).expect("truncate");
    let mut client = Client::open(site.client_port).expect("connect");
    let lost = client.request("PUT", "/v2/keys/lost", "value=1");
    assert!(lost.is_err(), "acknowledged without a file: {lost:?}");
    const SIGABRT: i32 = 6;
    assert_eq!(server.wait(Duration::from_secs(30)).signal(), Some(SIGABRT));
    assert!(server.stderr().contains("SIGBUS"), "{}", server.stderr());
    let mut refused = site.spawn();
    assert_eq!(refused.wait(Duration::from_secs(30)).code(), Some(1), "a truncated segment is damage");
}

#[test]
fn the_rings_run_their_task_work_cooperatively() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("the_rings_run_their_task_work_cooperatively", "strace is not installed");
    }
    for (switch, expected) in [(None, true), (Some("--ringd-coop-taskrun=false"), false)] {
        let site = Site::new();
        let trace = tempfile::NamedTempFile::new().expect("a file");
        let mut ringd = site.command();
        ringd.args(switch);
        let mut traced = Command::new("strace");
        traced.arg("-f").arg("-o").arg(trace.path()).args(["-e", "trace=io_uring_setup"]);
        traced.arg(ringd.get_program()).args(ringd.get_args());
        let mut running = Server::spawn(traced);
        // Before it serves it has set up all its rings, and strace has written each down before the call returned.
        wait_for("it to serve", || {
            (running.has_ended() || running.stderr().contains("ready to serve client requests")).then_some(())
        });
        let text = std::fs::read_to_string(trace.path()).expect("the trace");
        let rings: Vec<&str> =
            text.lines().filter(|line| line.contains("io_uring_setup") && line.contains(") = ")).collect();
        // First what strace started, which its log names: without strace it would go on.
        if let Some(pid) = text.split_whitespace().next().and_then(|word| word.parse().ok()) {
            let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        running.wait(PATIENCE);
        if rings.is_empty() {
            return skip("the_rings_run_their_task_work_cooperatively", "tracing is not permitted");
        }
        let with_flag = rings
            .iter()
            .filter(|line| !line.contains("IORING_SETUP_IOPOLL"))
            .filter(|line| line.contains("COOP_TASKRUN"))
            .count();
        assert_eq!(with_flag >= 2, expected, "{rings:#?}");
    }
}
