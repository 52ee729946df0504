//! Completions by kubectl's own convention: kubectl runs `kubectl_complete-podmint` with the words so far, and reads what could stand
//! next, a line each, and a directive.

use clap::{Arg, Command, ValueHint};

/// The program that kubectl looks for in the path: a few letters that ask us.
pub const SCRIPT: &str = "#!/bin/sh\n# Completions of `kubectl podmint`, for kubectl: keep it as kubectl_complete-podmint in a folder of your PATH.\nexec kubectl podmint __complete \"$@\"\n";

/// What kubectl reads for these words, of which the last is not finished.
pub fn reply(command: &Command, words: &[String]) -> String {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let Some(mut found) = candidates(command, before, last) else { return format!(":{FILES}\n") };
    found.retain(|candidate| candidate.starts_with(last));
    // A kind is followed by a name, so no space; and no file would do in either case.
    let directive = if found.iter().any(|candidate| candidate.ends_with('/')) { NO_FILES | NO_SPACE } else { NO_FILES };
    let mut text = String::new();
    for candidate in found {
        text.push_str(&candidate);
        text.push('\n');
    }
    format!("{text}:{directive}\n")
}

/// Nothing where a file is to stand, which the shell knows best.
fn candidates(command: &Command, before: &[String], last: &str) -> Option<Vec<String>> {
    let mut at = command;
    for word in before {
        if let Some(next) = at.find_subcommand(word) {
            at = next;
        }
    }
    let options = || at.get_arguments().chain(command.get_arguments().filter(|arg| arg.is_global_set()));
    let previous = before.last().map_or("", String::as_str);
    let asks = |arg: &&Arg| is_called(arg, previous) && arg.get_action().takes_values();
    if let Some(option) = options().find(asks) {
        if is_file(option) {
            return None;
        }
        return Some(option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect());
    }
    if last.starts_with('-') {
        return Some(options().filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect());
    }
    if at.get_positionals().next().is_some_and(is_file) {
        return None;
    }
    let mut found: Vec<String> = at
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect();
    found.extend(kinds(at.get_name()).iter().map(|kind| format!("{kind}/")));
    Some(found)
}

fn is_file(arg: &Arg) -> bool {
    arg.get_value_hint() == ValueHint::AnyPath
}

fn is_called(arg: &Arg, word: &str) -> bool {
    let long = word.strip_prefix("--").is_some_and(|word| arg.get_long() == Some(word));
    long || arg.get_short().is_some_and(|short| *word == format!("-{short}"))
}

/// The kinds of objects that a command takes.
fn kinds(command: &str) -> &'static [&'static str] {
    match command {
        "explain" => &["pod"],
        "hold" | "release" => &["pod", "serviceaccount", "node", "namespace"],
        _ => &[],
    }
}

/// Directives of kubectl's completion.
const FILES: u8 = 0;
const NO_SPACE: u8 = 2;
const NO_FILES: u8 = 4;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::kubectl::args::Arguments;

    fn completed(words: &[&str]) -> String {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        reply(&Arguments::command(), &words)
    }

    #[test]
    fn what_could_stand_next_is_said() {
        assert_eq!(completed(&["exp"]), "explain\n:4\n");
        assert_eq!(completed(&["hold", "no"]), "node/\n:6\n");
        assert_eq!(completed(&["requests", "-o", "y"]), "yaml\n:4\n");
        assert_eq!(completed(&["hold", "node/a", "--rea"]), "--reason\n:4\n");
        assert_eq!(completed(&["explain", "pod/cart-0", "--signer-domain", ""]), ":4\n");
        for words in [&["explain", "-f", ""][..], &["status", "--kubeconfig", ""], &["ca", "restore", ""]] {
            assert_eq!(completed(words), ":0\n", "{words:?}: a file");
        }
        let all = completed(&[""]);
        assert!(all.contains("release\n") && all.contains("status\n") && !all.contains("__complete"), "{all}");
        assert_eq!(completed(&[]), all);
    }
}
