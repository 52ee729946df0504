//! Volumes written by the kubelet's own `AtomicWriter` (`k8s.io/kubernetes/pkg/volume/util`), in a program of ours around it.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, go, until};
use podmint::testkit::{Authority, Issued};
use podmint::{PodIdentity, Source};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CART: &str = "/ns/shop/sa/cart";
const NEVER: Duration = Duration::from_secs(3600);

struct AtomicWriter {
    program: Child,
    answers: BufReader<ChildStdout>,
}

impl AtomicWriter {
    fn new(folder: &Path) -> Self {
        let mut command = Command::new(go::program("atomic-writer"));
        let mut program = command.arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(program.stdout.take().unwrap());
        Self { program, answers }
    }

    /// The next generation: key and chain in files of their own, and the trust.
    fn write(&mut self, issued: &Issued, trust: &str) {
        let escaped = |text: &str| text.replace('\n', "\\n");
        let line = format!(
            "{{\"tls/key.pem\":\"{}\",\"tls/chain.pem\":\"{}\",\"trust.pem\":\"{}\"}}\n",
            escaped(&issued.key),
            escaped(&issued.chain),
            escaped(trust)
        );
        self.program.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "written\n");
    }
}

impl Drop for AtomicWriter {
    fn drop(&mut self) {
        drop(self.program.stdin.take()); // its end
        drop(self.program.wait());
    }
}

async fn start(folder: &Path, poll: Duration) -> PodIdentity {
    let path = |name: &str| folder.join(name);
    let source = Source::key_and_chain(path("tls/key.pem"), path("tls/chain.pem"));
    let source = source.trust(DOMAIN.parse().unwrap(), path("trust.pem"));
    source.builder().poll_interval(poll).start().await.unwrap()
}

fn has(identity: &PodIdentity, issued: &Issued) -> bool {
    let leaf = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
    identity.snapshot().credential().chain().first() == Some(&leaf)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kubelets_own_writer_is_followed_and_never_read_half() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = AtomicWriter::new(folder.path());
    let authority = Authority::new(DOMAIN);
    let trust = authority.trust();
    let first = authority.issue(CART);
    writer.write(&first, &trust);

    // One follows by the watch alone, so that a missed event shows. It is told of each generation before there is the next.
    let watching = start(folder.path(), NEVER).await;
    until("the watch stands", || watching.health().loads > 1).await;
    for _ in 0..50 {
        let issued = authority.issue(CART);
        writer.write(&issued, &trust);
        until("the watch has seen it", || has(&watching, &issued)).await;
    }
    let generation = watching.snapshot().generation();
    assert_eq!(generation, 51);
    let last = authority.issue(CART);
    writer.write(&last, &trust);
    writer.write(&last, &trust); // the same again is no write
    until("the watch has seen it", || has(&watching, &last)).await;
    assert_eq!(watching.snapshot().generation(), generation + 1);

    // Another one reads without a pause while the writer writes without a pause.
    let reading = start(folder.path(), NEVER).await;
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (reading, stop) = (reading.clone(), Arc::clone(&stop));
        move || {
            let (mut readings, mut generations) = (0_u32, 0_u32);
            while !stop.load(Ordering::SeqCst) {
                let before = reading.snapshot().generation();
                let health = reading.reload_blocking();
                readings += 1;
                generations += u32::from(health.generation > before);
                // Between the opening of `..data` and the reading below it the writer may have removed the folder; whole it is in any case.
                assert!(health.problems.iter().all(|problem| problem.reason == "missing"), "{health:?}");
            }
            (readings, generations)
        }
    });
    let many: Vec<_> = (0..400).map(|_| authority.issue(CART)).collect();
    for issued in &many {
        writer.write(issued, &trust);
    }
    stop.store(true, Ordering::SeqCst);
    let (readings, generations) = reader.join().unwrap();
    assert!(readings > 50 && generations > 20, "{readings} readings saw {generations} generations");
    for identity in [&watching, &reading] {
        let whole = || has(identity, many.last().unwrap()) && identity.health().problems.is_empty();
        until("the last one is there", whole).await;
    }
}
