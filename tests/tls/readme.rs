//! The README's "Secure it", followed to the letter.
//!
//! Must hold: the commands are read from the README; only ports are replaced.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Server, free_port, tool};
use crate::wait_for;

/// The shell commands of a section, one text per block.
fn blocks(section: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let from = readme.split_once(&format!("\n## {section}\n")).expect("the section").1;
    let text = from.split("\n## ").next().expect("its text");
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("an end").to_owned());
    blocks.collect()
}

fn shell(text: &str, dir: &Path) -> Command {
    let own: PathBuf = Path::new(env!("CARGO_BIN_EXE_ringd")).parent().expect("a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    // `ringctl` is found there first, with patience for a busy machine.
    let dirs = [dir.join("patient"), own.clone()].into_iter().chain(std::env::split_paths(&path));
    let mut command = Command::new("sh");
    command.env("RINGCTL_PROGRAM", own.join("ringctl"));
    command.arg("-euc").arg(text).current_dir(dir).stdin(Stdio::null());
    command.env("PATH", std::env::join_paths(dirs).expect("a PATH"));
    command
}

fn run(text: &str, dir: &Path) -> String {
    let output = shell(text, dir).output().expect("a shell");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_readmes_commands_secure_a_member() {
    if Command::new("openssl").arg("version").output().is_err() {
        support::skip("the_readmes_commands_secure_a_member", "openssl is not installed");
        return;
    }
    tool("ringctl");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let patient = scratch.path().join("patient");
    std::fs::create_dir(&patient).expect("a directory");
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/patient-ringctl.sh");
    std::os::unix::fs::symlink(wrapper, patient.join("ringctl")).expect("a link");
    let (client, peer) = (free_port().to_string(), free_port().to_string());
    let blocks = blocks("Secure it");
    let [make, serve, ask, revoke] = &blocks[..] else { panic!("four blocks: {blocks:?}") };
    let local = |text: &str| text.replace("2379", &client).replace("2380", &peer);
    run(make, scratch.path());
    let server = Server::spawn(shell(&format!("exec {}", local(serve)), scratch.path()));
    wait_for(|| server.stderr(), || server.stderr().contains("ready to serve client requests").then_some(()));
    let answered = run(&local(ask), scratch.path());
    assert!(answered.contains("world"), "{answered}");
    // The lost certificate works until the list is there; another one works on.
    run(revoke, scratch.path());
    // Who is refused need not be patient.
    std::fs::remove_file(patient.join("ringctl")).expect("the link");
    wait_for(
        || server.stderr(),
        || {
            let refused = !shell(&local(ask), scratch.path()).output().expect("a shell").status.success();
            (refused && server.stderr().contains("transport: certificate serial ")).then_some(())
        },
    );
}
