//! Power cuts under real processes: ringd on a disk that loses what was not flushed (`support/disk.rs`).

use std::time::Duration;

use super::disk::{Machine, lock};
use super::support::{Client, Site, skip};

/// Power cuts in one run of the test.
const CUTS: u64 = 12;
const WRITERS: usize = 8;

/// What one writer knows: `written` was sent, `acknowledged` answered.
#[derive(Clone, Copy, Default)]
struct Known {
    acknowledged: u64,
    written: u64,
}

/// Writes counting values until the server no longer answers. A refusal is no acknowledgement.
fn write_until_dark(port: u16, writer: usize, mut known: Known) -> Known {
    let Ok(mut client) = Client::open(port) else { return known };
    loop {
        known.written += 1;
        let form = format!("value={}", known.written);
        match client.request("PUT", &format!("/v2/keys/power/w{writer}"), &form) {
            Ok(answer) if answer.status == 200 || answer.status == 201 => known.acknowledged = known.written,
            Ok(_) | Err(_) => return known,
        }
    }
}

#[test]
fn a_power_cut_loses_no_acknowledged_write_whatever_the_disk_had_not_flushed() {
    let test = "a_power_cut_loses_no_acknowledged_write_whatever_the_disk_had_not_flushed";
    let mut machine = match Machine::new() {
        Ok(machine) => machine,
        Err(why) => return skip(test, &why),
    };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        // Marsaglia's xorshift64: any sequence will do, the same one in every run is easier to look into.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut site = Site::at(&machine.mount.join("data"));
    // Small snapshots, so that cuts also fall into their files, markers and renames.
    site.extra = ["--snapshot-count", "500"].map(str::to_owned).to_vec();
    let mut known = [Known::default(); WRITERS];
    let (mut acknowledged, mut lost) = (0, 0);
    for cut in 0..=CUTS {
        let server = site.start();
        let mut reader = Client::open(site.client_port).expect("connect");
        for (writer, known) in known.iter_mut().enumerate().filter(|(_, known)| known.acknowledged > 0) {
            let answer = reader.request("GET", &format!("/v2/keys/power/w{writer}"), "").expect("read");
            assert_eq!(answer.status, 200, "cut {cut}: writer {writer} had {} acknowledged", known.acknowledged);
            let value: u64 = answer.json()["node"]["value"].as_str().expect("a value").parse().expect("a number");
            assert!(
                (known.acknowledged..=known.written).contains(&value),
                "cut {cut}: writer {writer} has {value}, acknowledged {}, written {}",
                known.acknowledged,
                known.written
            );
            *known = Known { acknowledged: value, written: known.written };
        }
        if cut == CUTS {
            server.kill();
            break;
        }
        let before: u64 = known.iter().map(|known| known.acknowledged).sum();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (port, known) = (site.client_port, known[writer]);
                std::thread::spawn(move || write_until_dark(port, writer, known))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(100 + random(700) as u64));
        lost += lock(&machine.platter).cut(&mut random);
        for (writer, handle) in writers.into_iter().enumerate() {
            known[writer] = handle.join().expect("a writer");
        }
        server.kill();
        machine.detach();
        machine.power_on();
        acknowledged += known.iter().map(|known| known.acknowledged).sum::<u64>() - before;
    }
    assert!(acknowledged > 0, "no write was ever acknowledged");
    let flushes = lock(&machine.platter).flushes;
    println!(
        "{CUTS} power cuts, {lost} sectors lost their last version, {flushes} flushes, {acknowledged} acknowledged writes, none lost"
    );
}
