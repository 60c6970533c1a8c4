//! The relay's main loop: waits for signals, commands, news of interfaces and the clock, and brings
//! what runs to what is wanted.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use log::{Level, error, info};

mod changing;
mod telling;

use super::{
    commands::Commands,
    desired::Desired,
    error::RunError,
    file_watch::FileWatch,
    metrics_place::{MetricsPlace, Serve},
    privileges::{self, give_up},
    reconcile::{OnRefusal, State},
    requests::Mailbox,
    running::ending::PATIENCE,
    service_manager::ServiceManager,
    signals::{self, Signals},
    status::Observer,
    taps::Taps,
    wait::wait,
    watchdog::{Health, Watchdog},
    watcher::Watcher,
};
use crate::{
    config::Document,
    events::{self, Event},
    host::Bell,
    observe::{log_line::Pace, report::Report},
    plan::Backend,
};

/// The target of the main loop's lines.
const LOG: &str = module_path!();
/// How often the relay reads its counters.
const TICK: Duration = Duration::from_secs(1);
/// How long news of interfaces are collected before the relay acts on them.
const SETTLE: Duration = Duration::from_millis(50);
/// How long after the end of a worker by a defect another takes its place.
const REPLACED: Duration = Duration::from_secs(1);
/// How long after a failure that is about no interface the relay tries again.
const AGAIN: Duration = Duration::from_secs(5);
/// How many changes of interfaces the reason of a pause names.
const MOST_NEWS: usize = 4;
/// How long requests are answered before the main loop looks at everything else.
const ANSWERING: Duration = Duration::from_millis(50);

/// How the relay runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The rule file.
    pub file: PathBuf,
    /// The backend that the user asked for, if any.
    pub forced: Option<Backend>,
    /// Whether the start fails where a rule or an output would wait.
    pub strict: bool,
    /// When the log has a line about the counters.
    pub pace: Pace,
}

/// A running relay.
pub struct Service {
    state: State,
    commands: Commands,
    watcher: Watcher,
    /// Rings when the watcher has news.
    news: Bell,
    observer: Observer,
    metrics: MetricsPlace,
    manager: ServiceManager,
    watchdog: Watchdog,
    file_watch: Option<FileWatch>,
    /// The rule file has changed, and is still to be read.
    file_changed: bool,
    signals: Signals,
    mailbox: Mailbox,
    /// When to look at the interfaces anew.
    refresh_at: Option<Instant>,
    /// What has changed of them since the last look, as far as it is known.
    news_told: Vec<String>,
    /// A command asked for the end.
    stop: bool,
    /// What clients look at frames through.
    taps: Taps,
    /// A worker stands still: nothing can end its thread.
    hang: Option<RunError>,
}

/// How a relay ended.
#[derive(Debug)]
pub struct Ended {
    /// The final report.
    pub report: Report,
    /// Workers that ended by a defect of the relay.
    pub defects: usize,
    /// Workers that have not ended, by number. The process must end at once, without waiting for
    /// its threads.
    pub hanging: Vec<usize>,
}

impl Service {
    /// Brings the rules of `document` up as far as the host offers what they need. `file_watch`
    /// began before the document was read, if a replaced rule file shall be reloaded by itself.
    /// `serve` has metrics served.
    ///
    /// # Errors
    ///
    /// A mistake in the rules, a missing privilege, or, if the settings are strict, a rule or an
    /// output that would wait. Nothing is left attached, bound, joined or claimed.
    pub fn start(
        document: Document,
        settings: &Settings,
        mailbox: Mailbox,
        file_watch: Option<FileWatch>,
        serve: Serve,
    ) -> Result<Self, RunError> {
        let mut state = State::new(Desired::of(document), settings.forced);
        privileges::check_at_start(settings.forced)?;
        state.give_back_offloads_left();
        state.refresh();
        // Later on, a missing descriptor would look like something else.
        state.check_start(settings.strict)?;
        let system = |what| move |error| RunError::System { what, error };
        let mut signals = Signals::handle().map_err(system("handle signals"))?;
        let news = Bell::new().map_err(system("open an eventfd"))?;
        // Before the first look at the interfaces, so that no change is missed.
        let watcher = Watcher::start(news.clone(), &state.running.next_hops.table)
            .map_err(system("start watching the interfaces"))?;
        let manager = ServiceManager::from_environment();
        signals.ping_while_waiting(manager.pings());
        let mut service = Self {
            state,
            commands: Commands::new(settings.file.clone()),
            watcher,
            news,
            observer: Observer::new(settings.pace),
            metrics: MetricsPlace::new(serve),
            watchdog: Watchdog::new(manager.interval()),
            manager,
            file_watch,
            file_changed: false,
            signals,
            mailbox,
            refresh_at: None,
            news_told: Vec::new(),
            stop: false,
            taps: Taps::default(),
            hang: None,
        };
        service.follow();
        service.state.refresh();
        let policy = if settings.strict {
            OnRefusal::Restore
        } else {
            OnRefusal::Wait
        };
        service.state.reconcile(policy, &service.signals)?;
        if service.state.running.plan.is_on(Backend::IoUring)
            && !privileges::may_exceed_buffer_limits()
        {
            info!(
                "without CAP_NET_ADMIN the packet sockets have buffers of at most `sysctl \
                 net.core.rmem_max` and `net.core.wmem_max`: bursts are lost earlier"
            );
        }
        // Until now there was nothing that the wait for a carrier could hold up.
        service.signals.interrupt_by(service.news.clone());
        service.state.log_waiting_since(&[]);
        give_up::keep_for_running();
        service.follow();
        service.ready();
        Ok(service)
    }

    fn ready(&mut self) {
        let plan = &self.state.running.plan;
        let outputs: usize = plan.flows.iter().map(|flow| flow.outputs.len()).sum();
        let waiting = match self.state.waiting() {
            0 => String::new(),
            waiting => format!(", waiting {waiting}"),
        };
        let running = format!(
            "rules {}, outputs {outputs}, interfaces {}, workers {}{waiting}",
            plan.flows.len(),
            plan.interfaces.len(),
            plan.workers.len(),
        );
        // A relay that starts has no rule that was watched before.
        self.observer.changed(&self.state);
        // Who reads that it is ready may ask for its status.
        self.publish();
        self.follow_metrics();
        info!("ready: {running}");
        self.manager.ready(&running);
    }

    /// Runs until a signal or a command ends it.
    ///
    /// # Errors
    ///
    /// A worker stands still. The process must end at once, without waiting for its threads.
    pub fn run(mut self) -> Result<Ended, RunError> {
        let mut tick = Instant::now() + TICK;
        while !self.stop {
            let [ends, hangups] = self.signals.fds();
            let watched = self.file_watch.as_ref().and_then(FileWatch::fd);
            let fds = [
                ends,
                hangups,
                Some(self.mailbox.fd()),
                Some(self.news.fd()),
                watched,
            ];
            let [end, hangup, request, news, _] = wait(fds, self.deadline(tick));
            if end || hangup {
                match self.signals.take() {
                    Some(signals::Request::End) => break,
                    Some(signals::Request::Reload) => self.reload("SIGHUP"),
                    None => {}
                }
            }
            if news {
                self.hear();
            }
            if request {
                self.answer();
            }
            self.on_time(&mut tick);
            if let Some(hang) = self.hang.take() {
                self.state.running.give_back_offloads();
                // Its sockets stay open until the process ends, so nothing may be dropped in order.
                std::mem::forget(self);
                return Err(hang);
            }
        }
        Ok(self.end())
    }

    /// The next time at which something is due.
    fn deadline(&self, tick: Instant) -> Instant {
        let others = [
            self.refresh_at,
            self.commands.confirm_by(),
            self.state.next_retry(),
            self.file_watch.as_ref().map(FileWatch::deadline),
            Some(self.watchdog.due()),
            self.observer.silence_due(),
            self.metrics.again(),
        ];
        others.into_iter().flatten().fold(tick, Instant::min)
    }

    /// Does what is due.
    fn on_time(&mut self, tick: &mut Instant) {
        let now = Instant::now();
        if self.commands.confirm_by().is_some_and(|at| at <= now) {
            self.before_change();
            self.commands.take_back(&mut self.state, &self.signals);
            self.changed();
        }
        self.watch_file();
        let retry = self.state.retry_due(now);
        if self.state.running.carriers.take_cut_short() {
            self.refresh_at.get_or_insert(now + SETTLE);
        }
        if retry || self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.refresh();
        }
        if self.watchdog.due() <= now {
            self.watch_workers(now);
        }
        if self.metrics.again().is_some_and(|at| at <= now) {
            self.follow_metrics();
        }
        let turns = self.observer.look_for_silence(now);
        self.say_silence(&turns);
        if *tick <= now {
            *tick += TICK;
            // After a standstill, such as a suspended machine, once and not once per second.
            if *tick <= now {
                *tick = now + TICK;
            }
            self.tick();
        }
    }

    /// Reads the counters, and says what there is to say.
    fn tick(&mut self) {
        let running = &mut self.state.running;
        running.kernel.flush_log();
        for worker in &mut running.workers {
            if !worker.has_ended() {
                worker.drops.read();
            } else if !worker.reported_dead {
                let text = format!(
                    "worker {} ended because of a defect of the relay; nothing is relayed from its \
                     queues until another worker takes its place, the other workers go on. Please \
                     report it",
                    worker.number
                );
                Event::new(LOG, Level::Error, "defects", &text).say();
                worker.reported_dead = true;
                self.refresh_at.get_or_insert(Instant::now() + REPLACED);
            }
        }
        if running.kernel.lost_local_device() {
            let text = "another process has removed the TAP device through which frames of rules \
                        with `local` go back to this host's stack; making it anew";
            Event::new(LOG, Level::Warn, "TAP device", text).say();
            self.refresh_at.get_or_insert(Instant::now());
        }
        running.settle();
        running.next_hops.tend(Instant::now());
        events::tick();
        if let Some(line) = self.observer.tick(&mut self.state, &self.watcher) {
            info!("{line}");
        }
        self.set_status();
    }

    /// Lets the service manager know that all threads turn, or notes the worker that does not.
    fn watch_workers(&mut self, now: Instant) {
        let workers = self.state.running.workers.iter();
        let turning = workers.filter(|worker| !worker.has_ended()).map(|worker| {
            let rounds = worker.remote.stats().progress.rounds.get();
            (format!("relay-worker-{}", worker.number), rounds)
        });
        match self.watchdog.check(now, turning) {
            Health::AllTurn => self.manager.pings().ping(now),
            Health::Unsure => {}
            Health::Hangs { worker, time } => {
                self.hang = Some(RunError::Hang {
                    worker,
                    seconds: time.as_secs(),
                });
            }
        }
    }

    /// Tells the watcher which interfaces are in use, and which are wanted.
    fn follow(&mut self) {
        let (running, desired) = (&self.state.running, &self.state.desired);
        self.watcher.follow(
            running.followed(),
            desired.interfaces(),
            desired.own_addresses(),
            self.state.facts.routes.values().cloned().collect(),
        );
    }

    fn end(mut self) -> Ended {
        self.manager.stopping();
        info!("stopping: no more frames are taken, those on their way still leave");
        self.taps.end_all(&mut self.state);
        let hanging = self.state.running.end();
        for number in &hanging {
            error!(
                "worker {number} (relay-worker-{number}) hangs: it has not ended within {} s. Its \
                 numbers are as it counted them last",
                PATIENCE.as_secs()
            );
        }
        self.state.running.kernel.flush_log();
        self.watcher.end();
        events::finish();
        let ended = Ended {
            report: self.observer.report(&self.state, &self.watcher),
            defects: self.state.running.defects(),
            hanging: hanging.into_iter().collect(),
        };
        if !ended.hanging.is_empty() {
            self.state.running.give_back_offloads();
            // Their sockets stay open until the process ends, so nothing may be dropped in order.
            std::mem::forget(self);
        }
        ended
    }
}
