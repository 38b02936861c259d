//! Where the members of a test cluster live: in network namespaces of their own on one bridge, or all on loopback.
//!
//! Owns: namespaces, links and the bridge, removed when dropped. Must hold: names begin with this process' id, so that
//! suites side by side do not meet; nothing of the machine's own network is touched.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::support;

/// Between a member's first and second address.
const MOVED_BY: u32 = 100;

/// A network for one cluster.
pub struct Net {
    /// `None` on loopback.
    spaces: Option<Spaces>,
}

struct Spaces {
    prefix: String,
    /// Third byte of the members' addresses.
    subnet: u8,
    members: usize,
}

/// Runs `ip`; whether it worked.
fn ip(args: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(args.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Net {
    /// Namespaces for so many members where they are permitted, else loopback with a line that says so.
    pub fn new(members: usize) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let process = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let spaces = Spaces {
            prefix: format!("rd{process}-{number}"),
            subnet: (process.wrapping_mul(31) as u8).wrapping_add(number),
            members,
        };
        if spaces.make() {
            return Self { spaces: Some(spaces) };
        }
        drop(spaces);
        support::skip("network namespaces", "they are not permitted here; the cluster runs on loopback ports");
        Self { spaces: None }
    }

    /// Whether members have namespaces: they can be cut off from each other, and see mounts of their own.
    pub fn can_cut(&self) -> bool {
        self.spaces.is_some()
    }

    /// A member's address.
    pub fn address(&self, member: usize) -> IpAddr {
        match &self.spaces {
            Some(spaces) => spaces.address(member).into(),
            None => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A command that runs `program` where the member lives, after the shell commands of `prelude`: what these mount,
    /// only the program sees.
    pub fn command(&self, member: usize, prelude: &str, program: &str) -> Command {
        let Some(spaces) = &self.spaces else {
            assert!(prelude.is_empty(), "a prelude needs namespaces");
            return Command::new(program);
        };
        // `ip netns exec` gives what it runs a mount namespace of its own.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &spaces.space(member)]);
        if !prelude.is_empty() {
            command.args(["sh", "-c", &format!("{prelude}\nexec \"$0\" \"$@\"")]);
        }
        command.arg(program);
        command
    }

    /// Gives a member one more address and tells it.
    pub fn move_to(&self, member: usize) -> IpAddr {
        let spaces = self.spaces.as_ref().expect("addresses are given in namespaces");
        let address = Ipv4Addr::from_bits(spaces.address(member).to_bits() + MOVED_BY);
        assert!(ip(&format!("-n {} addr add {address}/24 dev eth0", spaces.space(member))), "one more address");
        address.into()
    }

    /// Nothing goes from `from` to `to` any more; TCP needs both directions, so their streams stop.
    pub fn cut(&self, from: usize, to: usize) {
        let spaces = self.spaces.as_ref().expect("cuts need namespaces");
        let (space, address) = (spaces.space(from), spaces.address(to));
        assert!(ip(&format!("-n {space} route add blackhole {address}/32")), "a blackhole route");
    }

    /// Undoes [`Net::cut`].
    pub fn join(&self, from: usize, to: usize) {
        let spaces = self.spaces.as_ref().expect("cuts need namespaces");
        let (space, address) = (spaces.space(from), spaces.address(to));
        assert!(ip(&format!("-n {space} route del blackhole {address}/32")), "a blackhole route");
    }
}

impl Spaces {
    fn space(&self, member: usize) -> String {
        format!("{}-{member}", self.prefix)
    }

    fn address(&self, member: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.subnet, 10 + member as u8)
    }

    /// Interface names have 15 bytes at most.
    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn make(&self) -> bool {
        let bridge = self.bridge();
        let mut worked = ip(&format!("link add {bridge} type bridge"))
            && ip(&format!("addr add 10.214.{}.1/24 dev {bridge}", self.subnet))
            && ip(&format!("link set {bridge} up"));
        for member in 0..self.members {
            let (space, link, address) =
                (self.space(member), format!("{}v{member}", self.prefix), self.address(member));
            worked = worked
                && ip(&format!("netns add {space}"))
                && ip(&format!("link add {link} type veth peer name eth0 netns {space}"))
                && ip(&format!("link set {link} master {bridge} up"))
                && ip(&format!("-n {space} addr add {address}/24 dev eth0"))
                && ip(&format!("-n {space} link set eth0 up"))
                && ip(&format!("-n {space} link set lo up"));
        }
        worked
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        for member in 0..self.members {
            ip(&format!("netns del {}", self.space(member)));
        }
        ip(&format!("link del {}", self.bridge()));
    }
}
