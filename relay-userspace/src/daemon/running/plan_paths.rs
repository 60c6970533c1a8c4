//! How frames move on each interface of the plan that runs: known once the sockets are bound.

use log::Level;

use super::Running;
use crate::{
    events::Event,
    observe::report::FramePath,
    plan::{InterfaceId, List, Plan, WorkerKey},
};

impl Running {
    /// The paths of the interfaces of `next`, whose workers, with these keys, run now. Logs those
    /// that are not as before.
    pub(super) fn paths_of(&self, next: &Plan, keys: &[WorkerKey]) -> List<InterfaceId, FramePath> {
        let mut paths: List<InterfaceId, FramePath> =
            next.interfaces.iter().map(FramePath::planned).collect();
        for (planned, key) in next.workers.iter().zip(keys) {
            let mut workers = self.workers.iter();
            let worker = workers.find(|worker| worker.key_now().as_ref() == Some(key));
            let mode = worker.and_then(|worker| worker.mode);
            for port in &planned.ports {
                if let Some(path) = paths.get_mut(port.interface) {
                    path.mode = path.mode.or(mode);
                }
            }
            for (id, path) in paths.ids().zip(paths.iter_mut()) {
                path.tx_method = path.tx_method.or(planned.tx_method(next, id));
            }
        }
        for (interface, path) in next.interfaces.iter().zip(&paths) {
            let mut former = self.plan.interfaces.iter().zip(&self.paths);
            let same = former.any(|(before, was)| {
                before.index == interface.index && was.to_string() == path.to_string()
            });
            if !same {
                let (name, driver) = (&interface.name[..], &interface.driver);
                let text = format!("{name} (driver {driver}): {path}");
                Event::new(module_path!(), Level::Info, "path", &text)
                    .interface(name)
                    .by_text()
                    .say();
            }
        }
        paths
    }
}
