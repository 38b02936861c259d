//! What differs between a person at a terminal and a script.
//!
//! Owns: colours, passwords typed in, progress bars. Touches: the terminal. Always: colour goes to a terminal only and
//! never with `NO_COLOR`; a script sees none of this.

use std::io::{self, BufRead, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::{Exit, output};

/// A password longer than this is not one.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug)]
pub enum Paint {
    Good,
    Bad,
}

/// `NO_COLOR` counts when it is not empty (<https://no-color.org>); a terminal called `dumb` has no colours.
fn may_color(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    is_terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

fn colored(text: &str, paint: Paint, may: bool) -> String {
    let code = match paint {
        Paint::Good => 32,
        Paint::Bad => 31,
    };
    if may { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// `text` for standard output.
pub fn paint(text: &str, paint: Paint) -> String {
    colored(text, paint, may_color(io::stdout().is_terminal()))
}

/// `text` for standard error.
pub fn paint_error(text: &str, paint: Paint) -> String {
    colored(text, paint, may_color(person_reads_errors()))
}

/// Whether hints on standard error reach a person.
pub fn person_reads_errors() -> bool {
    io::stderr().is_terminal()
}

/// Asks for a password on standard output and reads one line of standard input, unseen when that is a terminal.
pub fn password(prompt: &str) -> Result<String, Exit> {
    let input = io::stdin();
    let shown = tcgetattr(&input).ok();
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &hidden)
            .map_err(|e| output::refuse(&format!("cannot hide the password: {e}")))?;
    }
    // Whoever sees the prompt is not seen typing.
    output::print(prompt);
    let mut line = String::new();
    let read = io::Read::take(input.lock(), PASSWORD_BYTES_MAX).read_line(&mut line);
    if let Some(shown) = &shown {
        // Nothing better can be done when the terminal has gone meanwhile.
        tcsetattr(&input, OptionalActions::Flush, shown).ok();
    }
    output::print("\n");
    match read {
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(e) => Err(output::refuse(&format!("cannot read the password: {e}"))),
    }
}

/// A bar on standard error that counts to `total`; none when nobody looks.
pub fn progress(total: u64, what: &'static str, bytes: bool) -> ProgressBar {
    if !person_reads_errors() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let counts = if bytes { "{bytes}/{total_bytes}" } else { "{pos}/{len}" };
    let bar_style = if may_color(true) { "{bar:30.green}" } else { "{bar:30}" };
    let template = format!("{what} {bar_style} {counts} {{eta}}");
    bar.set_style(ProgressStyle::with_template(&template).expect("a fixed template"));
    bar.tick();
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_is_colored() {
        assert!(!may_color(false));
        assert_eq!(colored("x", Paint::Good, false), "x");
        assert_eq!(colored("x", Paint::Bad, true), "\x1b[31mx\x1b[0m");
    }
}
