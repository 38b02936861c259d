//! `ringctl top`: what the members are doing, once or every second.
//!
//! Owns: the command, its way of ending, and the rhythm. Touches: the cluster through `look`, the terminal through
//! `screen`. Always: the terminal is given back as it was, whether a key, a signal or an error ends the view; a member
//! that does not answer delays no redraw.

mod look;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::{Exit, Invocation, Outcome, connect, output};
use look::{Look, Observer};
use view::View;

/// Between two looks at the members; rates and percentiles are of this time.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a key or a signal may wait.
const KEY_WAIT: Duration = Duration::from_millis(100);

pub fn run(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    let once = call.flags.is_set("once");
    if call.flags.is_set("json") && !once {
        return Err(output::say("--json goes with --once"));
    }
    if !once && !io::stdout().is_terminal() {
        return Err(output::say("standard output is no terminal; use --once"));
    }
    let mut observer = Observer::new(connect::client(&call.globals)?);
    let first = observer.look().map_err(|error| output::error(&error, Exit::Server))?;
    if once {
        thread::sleep(PERIOD);
        let second = observer.look().map_err(|error| output::error(&error, Exit::Server))?;
        let view = View::between(Some(&first), &second);
        output::print(&if call.flags.is_set("json") { format!("{}\n", view.json()) } else { view.text() });
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP] {
        let registered = signal_hook::flag::register(signal, Arc::clone(&stop));
        registered.map_err(|error| output::say(&format!("cannot handle signals: {error}")))?;
    }
    let looks = observe(observer);
    let mut terminal =
        ratatui::try_init().map_err(|error| output::say(&format!("cannot use the terminal: {error}")))?;
    let ended = show(&mut terminal, first, &looks, &stop);
    ratatui::restore();
    ended.map_err(|error| output::say(&format!("cannot use the terminal: {error}")))
}

/// What the observer finds, every second; it ends when nobody listens.
fn observe(mut observer: Observer) -> Receiver<Result<Look, String>> {
    // One look may wait: a slow terminal sees the newest but one.
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        loop {
            thread::sleep(PERIOD);
            if sender.send(observer.look().map_err(|error| error.to_string())).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Draws until a key or a signal says stop.
fn show(
    terminal: &mut DefaultTerminal,
    first: Look,
    looks: &Receiver<Result<Look, String>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut view = View::between(None, &first);
    let (mut last, mut selected, mut trouble) = (first, 0usize, None);
    while !stop.load(Ordering::Relaxed) {
        terminal.draw(|frame| screen::draw(frame, &view, selected, trouble.as_deref()))?;
        if event::poll(KEY_WAIT)?
            && let Event::Key(key) = event::read()?
        {
            match action(key) {
                Some(Action::Leave) => break,
                Some(Action::Up) => selected = selected.saturating_sub(1),
                Some(Action::Down) => selected = (selected + 1).min(view.members.len().saturating_sub(1)),
                None => {}
            }
        }
        match looks.try_recv() {
            Ok(Ok(look)) => {
                view = View::between(Some(&last), &look);
                (last, trouble) = (look, None);
                selected = selected.min(view.members.len().saturating_sub(1));
            }
            Ok(Err(why)) => trouble = Some(why),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Err(io::Error::other("the observer ended")),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Leave,
    Up,
    Down,
}

fn action(key: KeyEvent) -> Option<Action> {
    match (key.kind, key.code) {
        (KeyEventKind::Release, _) => None,
        (_, KeyCode::Char('q') | KeyCode::Esc) => Some(Action::Leave),
        (_, KeyCode::Char('c')) if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Action::Leave),
        (_, KeyCode::Up | KeyCode::Char('k')) => Some(Action::Up),
        (_, KeyCode::Down | KeyCode::Char('j')) => Some(Action::Down),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_bottom_line_says() {
        let press = |code, modifiers| action(KeyEvent::new(code, modifiers));
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::NONE), Some(Action::Leave));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Leave));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(press(KeyCode::Up, KeyModifiers::NONE), Some(Action::Up));
        assert_eq!(press(KeyCode::Down, KeyModifiers::NONE), Some(Action::Down));
    }
}
