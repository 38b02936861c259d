//! Shell completions and the manual page, made from the table.
//!
//! Owns: the translation of the table into clap's terms, which its generators read. Touches: standard output.
//! Always: every command and flag of the table appears; parsing does not go through here.

use clap::{Arg, ArgAction, ValueHint};
use clap_complete::Shell;

use crate::flags::{Flag, Kind};
use crate::table::{Action, COMMANDS, Command, GLOBAL_FLAGS};
use crate::{Invocation, Outcome, help, output};

const SHELLS: &str = "Provide one of bash, zsh and fish";

pub fn completion(call: &Invocation) -> Outcome {
    let shell = match call.args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bash"] => Shell::Bash,
        ["zsh"] => Shell::Zsh,
        ["fish"] => Shell::Fish,
        _ => return Err(output::say(SHELLS)),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program(), help::NAME, &mut script);
    output::print(&String::from_utf8_lossy(&script));
    Ok(())
}

pub fn man(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    output::print(&manual());
    Ok(())
}

/// The page, in roff: the program, then every command.
fn manual() -> String {
    let root = program();
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let written = (|| {
        let man = clap_mangen::Man::new(root.clone());
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        commands(&root, "", &mut page)
    })();
    written.expect("writing to memory cannot fail");
    String::from_utf8_lossy(&page).into_owned()
}

/// One section per command that can be run, with its own flags.
fn commands(parent: &clap::Command, path: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in parent.get_subcommands() {
        let path = format!("{path}{} ", command.get_name());
        if command.has_subcommands() {
            commands(command, &path, page)?;
            continue;
        }
        let arguments = command.get_positionals().next().map(|a| a.get_id().to_string()).unwrap_or_default();
        let summary = command.get_about().map(ToString::to_string).unwrap_or_default();
        let more = command.get_long_about().map(ToString::to_string).unwrap_or_default();
        let mut roff = clap_mangen::roff::Roff::new();
        roff.control("SH", [format!("{path}{arguments}").trim_end()]);
        roff.text([clap_mangen::roff::roman(summary)]);
        for line in more.lines() {
            roff.control("br", []);
            roff.text([clap_mangen::roff::roman(line.trim_start())]);
        }
        for flag in command.get_opts().filter(|f| !f.is_global_set()) {
            let mut names: Vec<String> =
                flag.get_long_and_visible_aliases().into_iter().flatten().map(|n| format!("--{n}")).collect();
            names.extend(flag.get_short_and_visible_aliases().into_iter().flatten().map(|n| format!("-{n}")));
            roff.control("TP", []);
            roff.text([clap_mangen::roff::bold(names.join(", "))]);
            roff.text([clap_mangen::roff::roman(flag.get_help().map(ToString::to_string).unwrap_or_default())]);
        }
        roff.to_writer(page)?;
    }
    Ok(())
}

fn program() -> clap::Command {
    clap::Command::new(help::NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about(help::ABOUT)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(GLOBAL_FLAGS.iter().map(argument))
        .subcommands(COMMANDS.iter().map(subcommand))
}

fn subcommand(command: &'static Command) -> clap::Command {
    let made = clap::Command::new(command.name).about(command.summary).disable_help_flag(true);
    let made = if command.description.is_empty() { made } else { made.long_about(command.description) };
    match command.action {
        Action::Group(inner) => made.disable_help_subcommand(true).subcommands(inner.iter().map(subcommand)),
        Action::Run(_) => {
            let made = made.args(command.flags.iter().map(argument));
            if command.name == "completion" {
                return made.arg(Arg::new("shell").value_parser(["bash", "zsh", "fish"]));
            }
            if command.arguments.is_empty() { made } else { made.arg(Arg::new(command.arguments).num_args(0..)) }
        }
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let mut arg = Arg::new(flag.names[0]);
    for name in flag.names {
        let short = name.chars().next().filter(|_| name.chars().count() == 1);
        arg = match (short, arg.get_long(), arg.get_short()) {
            (Some(letter), _, None) => arg.short(letter),
            (Some(letter), _, Some(_)) => arg.visible_short_alias(letter),
            (None, None, _) => arg.long(*name),
            (None, Some(_), _) => arg.visible_alias(*name),
        };
    }
    let mut text = flag.help.to_owned();
    if !flag.default.is_empty() {
        text.push_str(&format!(" (default: {})", flag.default));
    }
    if !flag.variable.is_empty() {
        text.push_str(&format!(" [env: {}]", flag.variable));
    }
    let arg = arg.help(text);
    match flag.kind {
        Kind::Bool => arg.action(ArgAction::SetTrue),
        Kind::List => arg.action(ArgAction::Append),
        _ if flag.names[0] == "output" => arg.action(ArgAction::Set).value_parser(["simple", "extended", "json"]),
        _ if flag.names[0].ends_with("-file") || flag.names[0] == "snap" => {
            arg.action(ArgAction::Set).value_hint(ValueHint::FilePath)
        }
        _ if flag.names[0].ends_with("-dir") => arg.action(ArgAction::Set).value_hint(ValueHint::DirPath),
        _ => arg.action(ArgAction::Set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(commands: &'static [Command], visit: &mut dyn FnMut(&'static Command)) {
        for command in commands {
            visit(command);
            if let Action::Group(inner) = command.action {
                each(inner, visit);
            }
        }
    }

    #[test]
    fn clap_accepts_what_the_table_says() {
        program().debug_assert();
    }

    #[test]
    fn scripts_and_page_name_every_command_and_flag() {
        let mut texts = vec![manual().replace("\\-", "-")];
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program(), help::NAME, &mut script);
            texts.push(String::from_utf8(script).expect("a script is text"));
        }
        for text in &texts {
            let has = |word: &str| assert!(text.contains(word), "{word} is missing in {}", &text[..60]);
            GLOBAL_FLAGS.iter().for_each(|flag| has(flag.names[0]));
            each(COMMANDS, &mut |command| {
                has(if matches!(command.action, Action::Group(_)) { "member" } else { command.name });
                command.flags.iter().for_each(|flag| has(flag.names[0]));
            });
        }
    }
}
