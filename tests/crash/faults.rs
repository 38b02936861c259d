//! Disks that fill up and disks that fail: a small ext4 on a loop device. Needs root, losetup, mkfs.ext4 and mount.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::disk::{run, text};
use super::support::{Client, Site, skip};

/// A file system of its own on a loop device; unmounted and detached when dropped.
struct LoopDisk {
    device: String,
    mount: PathBuf,
    image: PathBuf,
    _scratch: tempfile::TempDir,
}

impl LoopDisk {
    /// A fresh file system of so many bytes, or why there is none.
    fn new(bytes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mount) = (scratch.path().join("image"), scratch.path().join("mount"));
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        std::fs::File::create(&image).and_then(|file| file.set_len(bytes)).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)])?;
        let device = run("losetup", &["--find", "--show", text(&image)])?;
        let disk = Self { device, mount, image, _scratch: scratch };
        run("mount", &[&disk.device, text(&disk.mount)])?;
        Ok(disk)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A ring that is being taken apart may hold the file system for a moment after its process has ended.
        for _ in 0..50 {
            if run("umount", &[text(&self.mount)]).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself() {
    // Two segments of 64 MiB fit beside the filler, a third does not.
    let disk = match LoopDisk::new(260 << 20) {
        Ok(disk) => disk,
        Err(why) => return skip("a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself", &why),
    };
    let filler = disk.mount.join("filler");
    let file = std::fs::File::create(&filler).expect("a filler");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 90 << 20).expect("fallocate");
    drop(file);
    let site = Site::at(&disk.mount.join("data"));
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    let form = format!("value={}", "x".repeat(256 << 10));
    let mut accepted = 0;
    let refusal = loop {
        let answer = client.request("PUT", &format!("/v2/keys/fill/k{accepted}"), &form).expect("an answer");
        if answer.status != 201 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 1000, "the disk never filled up");
    };
    assert_eq!(refusal.status, 500);
    let error = refusal.json();
    assert_eq!(error["errorCode"], 300);
    assert!(error["cause"].as_str().expect("a cause").contains("no space"), "{error}");
    for key in [0, accepted / 2, accepted - 1] {
        let read = client.request("GET", &format!("/v2/keys/fill/k{key}"), "").expect("a read");
        assert_eq!(read.status, 200, "reads go on");
    }
    assert_eq!(client.request("PUT", "/v2/keys/fill/k0", &form).expect("an answer").status, 500, "still refused");
    std::fs::remove_file(&filler).expect("remove");
    let begun = Instant::now();
    while client.request("PUT", "/v2/keys/after", "value=1").expect("an answer").status != 201 {
        assert!(begun.elapsed() < Duration::from_secs(60), "writes did not resume: {}", server.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    server.kill();
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    for key in [0, accepted / 2, accepted - 1] {
        let read = client.request("GET", &format!("/v2/keys/fill/k{key}"), "").expect("a read");
        assert_eq!(read.status, 200, "an acknowledged write is gone");
    }
    server.kill();
}

#[test]
fn an_io_error_on_the_wal_stops_the_process_with_a_message_and_no_false_answer() {
    let disk = match LoopDisk::new(300 << 20) {
        Ok(disk) => disk,
        Err(why) => {
            return skip("an_io_error_on_the_wal_stops_the_process_with_a_message_and_no_false_answer", &why);
        }
    };
    let site = Site::at(&disk.mount.join("data"));
    let mut server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    assert_eq!(client.request("PUT", "/v2/keys/before", "value=1").expect("write").status, 201);
    // Let the spare be finished, so that the next thing to fail is a sync.
    std::thread::sleep(Duration::from_secs(3));
    // The device forgets everything behind its first megabyte: writes and flushes there fail for real.
    let image = std::fs::File::options().write(true).open(&disk.image).expect("the image");
    image.set_len(1 << 20).expect("truncate");
    run("losetup", &["--set-capacity", &disk.device]).expect("losetup");
    for number in 0..100 {
        match client.request("PUT", &format!("/v2/keys/lost{number}"), "value=1") {
            Ok(answer) => assert_ne!(answer.status, 201, "acknowledged on a dead disk"),
            Err(_) => break,
        }
    }
    assert_eq!(server.wait(Duration::from_secs(30)).code(), Some(1));
    let said = server.stderr();
    assert!(said.contains("/wal/") && said.contains("cannot sync"), "the message names the file: {said}");
}
