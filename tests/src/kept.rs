//! Processes and folders that do not outlive this process, however it ends.
//!
//! Each is held by a small shell whose standard input is a pipe from us. The kernel closes the pipe when we end (panic,
//! Ctrl-C, SIGKILL alike), the shell reads the end of it, kills what it holds and goes. A destructor could not promise that.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// Prints the process' id, and its exit status when it has ended.
const HOLD_PROCESS: &str = r#"
exec 3<&0
log=$1; shift
"$@" 3<&- </dev/null >>"$log" 2>&1 &
held=$!
echo "$held"
(read -r _ <&3; kill -9 "$held" 2>/dev/null) >/dev/null &
wait "$held"
status=$?
kill "$!" 2>/dev/null
echo "$status"
"#;

/// Tries again for a moment: a process killed at the same time may still be writing into the folder.
const HOLD_FOLDER: &str = r#"
read -r _
for _ in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf "$1" 2>/dev/null
  [ -e "$1" ] || exit 0
  sleep 0.2
done
"#;

/// A running process that ends with us.
#[derive(Debug)]
pub struct Kept {
    shell: Child,
    answers: BufReader<ChildStdout>,
    pid: Pid,
    log: PathBuf,
    ended: bool,
}

impl Kept {
    /// Starts `program`; both its outputs are appended to `log`.
    pub fn start<S: AsRef<OsStr>>(program: &Path, arguments: &[S], log: &Path) -> Self {
        assert!(program.is_file(), "{} is missing", program.display());
        let mut shell = hold(HOLD_PROCESS);
        shell.arg(log).arg(program).args(arguments.iter().map(AsRef::as_ref)).stdout(Stdio::piped());
        let mut shell = shell.spawn().expect("sh starts");
        let mut answers = BufReader::new(shell.stdout.take().expect("the output is piped"));
        let pid = read_number(&mut answers).and_then(Pid::from_raw).expect("the shell says which process it holds");
        Self { shell, answers, pid, log: log.to_owned(), ended: false }
    }

    /// The process' id, for `/proc`.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines it wrote, for messages.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
    }

    /// SIGSTOP: it stands still, and its connections with it.
    pub fn pause(&self) {
        kill_process(self.pid, Signal::STOP).expect("it runs");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        kill_process(self.pid, Signal::CONT).expect("it runs");
    }

    /// The most memory it has ever used, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.and_then(|peak| peak.trim().split(' ').next()?.parse().ok()).unwrap_or_default()
    }

    /// From now on it gets no more memory than so many KiB. Stacks of threads count in full, so that it is less than a container may use.
    pub fn limit_memory(&self, most: u64) {
        let most = Some(most << 10);
        prlimit(Some(self.pid), Resource::Data, Rlimit { current: most, maximum: most }).expect("it runs");
    }

    /// SIGKILL, and gone when this returns. The exit status is [`KILLED`], unless it had ended before.
    pub fn kill(mut self) -> i32 {
        self.end(Signal::KILL)
    }

    /// SIGTERM, and the exit status once it has ended by itself.
    pub fn terminate(mut self) -> i32 {
        self.end(Signal::TERM)
    }

    fn end(&mut self, signal: Signal) -> i32 {
        // It may have ended already: then there is only its status to read.
        let _gone = kill_process(self.pid, signal);
        let status = read_number(&mut self.answers).expect("the shell says how the process ended");
        self.ended = true;
        self.shell.wait().expect("the shell can be waited for");
        status
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Signal::KILL);
        }
    }
}

/// A folder for one run, removed when it ends.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    shell: Child,
}

impl Scratch {
    /// A new empty folder that only we may read.
    pub fn new() -> Self {
        let path = tempfile::Builder::new().prefix("podmint-stories-").tempdir().expect("a temporary folder").keep();
        let shell = hold(HOLD_FOLDER).arg(&path).spawn().expect("sh starts");
        Self { path, shell }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).expect("the scratch folder can be written");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().expect("the shell can be waited for");
    }
}

/// In a process group of its own, so that Ctrl-C at the terminal reaches us and not the held process.
fn hold(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "podmint-stories-hold"]).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    shell
}

fn read_number(lines: &mut impl BufRead) -> Option<i32> {
    let mut line = String::new();
    lines.read_line(&mut line).ok()?;
    line.trim().parse().ok()
}

/// The exit status after SIGKILL, as a shell tells it.
pub const KILLED: i32 = 128 + 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_gone_and_so_is_its_folder() {
        let scratch = Scratch::new();
        let folder = scratch.path().to_owned();
        let sleeper = Kept::start(Path::new("/bin/sleep"), &["600"], &scratch.join("log"));
        let pid = sleeper.pid();
        assert!(sleeper.is_alive());
        drop(sleeper);
        drop(scratch);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the process outlived its owner");
        assert!(!folder.exists(), "the folder outlived its owner");
    }

    #[test]
    fn an_exit_status_is_reported() {
        let scratch = Scratch::new();
        let shell = Kept::start(
            Path::new("/bin/sh"),
            &["-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"],
            &scratch.join("log"),
        );
        while shell.log().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(shell.terminate(), 7);
    }

    #[test]
    fn who_wants_more_memory_than_it_may_have_ends() {
        let scratch = Scratch::new();
        let doubles = "while [ ! -e \"$0\" ]; do sleep 0.01; done
            x=12345678; for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do x=$x$x; done";
        let ended = |most: u64| {
            let gate = scratch.join(&format!("gate-{most}"));
            let arguments = ["-c", doubles, gate.to_str().unwrap()];
            let shell = Kept::start(Path::new("/bin/sh"), &arguments, &scratch.join("log"));
            shell.limit_memory(most);
            std::fs::write(gate, "").unwrap();
            status_of(shell)
        };
        assert_eq!(ended(256 << 10), 0);
        assert_ne!(ended(4 << 10), 0);
    }

    #[test]
    fn who_was_killed_says_so_and_who_had_ended_before_does_not() {
        let scratch = Scratch::new();
        let start = |script| Kept::start(Path::new("/bin/sh"), &["-c", script], &scratch.join("log"));
        assert_eq!(start("while :; do sleep 0.01; done").kill(), KILLED);
        assert_eq!(status_of(start("exit 7")), 7);
    }

    fn status_of(process: Kept) -> i32 {
        while process.is_alive() {
            std::thread::yield_now();
        }
        process.kill()
    }
}
