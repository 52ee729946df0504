//! One turn of one program: all that it is asked, and what that costs.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use podmint_tests::stage::Stage;

use crate::Arguments;
use crate::cost::{Cost, Meter};
use crate::figures::Figures;
use crate::load::{Load, Waits};
use crate::program::{Program, Running};

/// What every program finds.
pub(crate) struct Ground<'a> {
    pub(crate) arguments: &'a Arguments,
    pub(crate) stage: &'a Stage,
    pub(crate) binary: &'a Path,
    /// Those who ask all at once.
    pub(crate) load: Load,
    /// Those of another namespace who ask now and then.
    pub(crate) quiet: Load,
}

/// How many the null signer answered in a second in the same round, of each load.
pub(crate) type Ceiling = HashMap<&'static str, f64>;

/// A program that has its turn.
pub(crate) struct Turn<'a> {
    ground: &'a Ground<'a>,
    program: Program,
    running: Running,
    ceiling: &'a mut Ceiling,
    figures: &'a mut Figures,
}

impl<'a> Turn<'a> {
    /// The whole turn. Returns the seconds of a processor for each answer in a burst.
    pub(crate) async fn take(
        ground: &'a Ground<'a>,
        program: Program,
        ceiling: &'a mut Ceiling,
        figures: &'a mut Figures,
    ) -> f64 {
        let Ground { arguments, stage, load, .. } = ground;
        // With many kubelets, what the API server lets through hangs on what it has seen lately.
        stage.bed.go_down();
        stage.bed.come_back().await;
        let _kubelets = load.kubelets(arguments.watchers).await;
        let mut turn = Self::start(ground, program, ceiling, figures).await;
        let is_throttled = program.most() <= arguments.burst;
        if !is_throttled {
            turn.idle().await;
            turn.trickle().await;
        }
        let cpu = turn.burst(BURST).await;
        if !is_throttled {
            turn.burst(REKEY).await;
        }
        turn.running.stop();
        load.clear().await;
        cpu
    }

    async fn start(
        ground: &'a Ground<'a>,
        program: Program,
        ceiling: &'a mut Ceiling,
        figures: &'a mut Figures,
    ) -> Self {
        let Ground { stage, binary, load, quiet, .. } = ground;
        let has_ca = !stage.trust_bundles().await.is_empty() || program == Program::Null;
        let first = load.first().await;
        let running = program.start(stage, &[load.namespace(), quiet.namespace()], binary).await;
        let start = first.answered_after(running.started).await.first();
        let mut turn = Self { ground, program, running, ceiling, figures };
        let figure = if has_ca { "start to first answer" } else { "start to first answer, CA made" };
        turn.add(figure, start, "ms", Some(250.0));
        turn
    }

    async fn idle(&mut self) {
        let before = self.running.cpu();
        tokio::time::sleep(IDLE).await;
        let used = (self.running.cpu() - before) / IDLE.as_secs_f64();
        self.add("idle, of a core", used * 100.0, "%", Some(0.2));
    }

    /// A quiet namespace, alone and beside another one's flood. The null signer keeps no queue: what it is slower by, everybody is
    /// whose API server is flooded.
    async fn trickle(&mut self) {
        let Ground { arguments, stage, load, quiet, .. } = self.ground;
        let meter = Meter::start(stage, &self.running).await;
        let waits = quiet.steady(arguments.steady).await;
        let cost = meter.stop(stage, &self.running).await;
        let alone = waits.waited();
        self.add_waits(STEADY, &waits, true);
        self.add_cost(STEADY, &cost, arguments.steady as f64);
        quiet.clear().await;

        let meter = Meter::start(stage, &self.running).await;
        let waits = quiet.steady_beside_a_flood(arguments.steady, load).await;
        let cost = meter.stop(stage, &self.running).await;
        self.add_waits(FLOOD, &waits, false);
        let aim = self.aim(2.0);
        self.figures.add_compared(self.program.name(), &format!("{FLOOD}: to {STEADY}"), (waits.waited(), alone), aim);
        self.add_rate(FLOOD, cost.calls.answers / waits.seconds());
        self.add_cost(FLOOD, &cost, cost.calls.answers);
        load.clear().await;
        quiet.clear().await;
    }

    async fn burst(&mut self, load: &'static str) -> f64 {
        let Ground { arguments, stage, .. } = self.ground;
        let count = arguments.burst.min(self.program.most());
        let meter = Meter::start(stage, &self.running).await;
        let waits = self.ground.load.burst(count).await;
        let cost = meter.stop(stage, &self.running).await;
        self.add_rate(load, waits.answered_per_second());
        self.add(&format!("{load}: time to all answered to all created"), waits.stretch(), "x", Some(1.05));
        self.add_waits(load, &waits, true);
        self.add_cost(load, &cost, count as f64);
        self.add(&format!("{load}: CPU of API server and etcd, each"), cost.server / count as f64 * 1e3, "ms", None);
        cost.own / count as f64
    }

    fn add(&mut self, figure: &str, value: f64, unit: &'static str, aim: Option<f64>) {
        let aim = aim.and_then(|aim| self.aim(aim));
        self.figures.add(self.program.name(), figure, value, unit, aim);
    }

    fn aim(&self, aim: f64) -> Option<f64> {
        (self.program == Program::Ours).then_some(aim)
    }

    fn add_waits(&mut self, load: &str, waits: &Waits, has_aims: bool) {
        let has_aims = has_aims && self.program == Program::Ours;
        self.figures.add_waits(self.program.name(), &format!("{load}: created to answered"), waits.waited(), has_aims);
    }

    fn add_rate(&mut self, load: &'static str, rate: f64) {
        self.add(&format!("{load}: answered"), rate, "/s", None);
        if self.program == Program::Null {
            self.ceiling.insert(load, rate);
        } else if let Some(ceiling) = self.ceiling.get(load).copied() {
            self.add(&format!("{load}: share of null's"), rate / ceiling, "", Some(0.95));
        }
    }

    fn add_cost(&mut self, load: &str, cost: &Cost, answers: f64) {
        self.add(&format!("{load}: CPU, each"), cost.own / answers * 1e3, "ms", None);
        self.add(&format!("{load}: calls to the API server, each"), cost.calls.all / answers, "", None);
        self.add(&format!("{load}: peak memory"), cost.peak, "MiB", Some(32.0));
    }
}

/// Figures that the picture shows.
pub(crate) const RATE: &str = "burst: answered";
pub(crate) const CPU: &str = "burst: CPU, each";
pub(crate) const MEMORY: &str = "burst: peak memory";

/// Loads, for the table.
const STEADY: &str = "20/s";
const FLOOD: &str = "beside a flood";
const BURST: &str = "burst";
/// The same pods once more, while their answered requests are still there.
const REKEY: &str = "re-key";

const IDLE: Duration = Duration::from_secs(10);
