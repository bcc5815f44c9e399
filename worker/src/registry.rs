//! The list of an application's tasks: name → handler.

use std::{collections::HashMap, fmt, sync::Arc};

use umbel_proto::{Catalog, CatalogEntry, NameError, QueueName, TaskName, TaskOptions};

use crate::{
    Handler,
    endpoint::{Bound, Endpoint},
};

/// The tasks of an application whose state is `S`.
///
/// The state comes later, by [`Registry::bind`]: whoever only enqueues needs the catalogue and no
/// state.
pub struct Registry<S> {
    registrations: Vec<Registration<S>>,
}

/// Collects registrations; see [`Registry::builder`].
pub struct RegistryBuilder<S> {
    registrations: Vec<Result<Registration<S>, RegistryError>>,
}

struct Registration<S> {
    entry: CatalogEntry,
    bind: fn(S) -> Arc<dyn Endpoint>,
}

/// Why an application cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("two tasks are called `{0}`")]
    Twice(TaskName),
    #[error("a task or its queue has a wrong name")]
    Name(#[from] NameError),
}

impl<S: Clone + Send + Sync + 'static> Registry<S> {
    pub fn builder() -> RegistryBuilder<S> {
        RegistryBuilder { registrations: Vec::new() }
    }

    /// What may be enqueued, with its schemas.
    pub fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for registration in &self.registrations {
            catalog.insert(registration.entry.clone());
        }
        catalog
    }

    /// The handlers with their state.
    pub fn bind(&self, state: S) -> Endpoints {
        let bound = self.registrations.iter().map(|registration| {
            let entry = &registration.entry;
            let handler = (registration.bind)(state.clone());
            (entry.name.clone(), Bounded { options: entry.options, handler })
        });
        Endpoints(bound.collect())
    }
}

impl<S: Clone + Send + Sync + 'static> RegistryBuilder<S> {
    /// Adds a task. A name used twice stops the boot.
    pub fn register<T: Handler<S>>(mut self) -> Self {
        self.registrations.push(registration::<S, T>());
        self
    }

    pub fn build(self) -> Result<Registry<S>, RegistryError> {
        let registrations: Vec<_> = self.registrations.into_iter().collect::<Result<_, _>>()?;
        let mut catalog = Catalog::default();
        for registration in &registrations {
            if let Some(first) = catalog.insert(registration.entry.clone()) {
                return Err(RegistryError::Twice(first.name));
            }
        }
        Ok(Registry { registrations })
    }
}

fn registration<S, T>() -> Result<Registration<S>, RegistryError>
where
    S: Clone + Send + Sync + 'static,
    T: Handler<S>,
{
    let entry = CatalogEntry::of::<T>(T::NAME.parse()?);
    entry.options.queue.parse::<QueueName>()?;
    Ok(Registration { entry, bind: |state| Arc::new(Bound::<S, T>::new(state)) })
}

/// Handlers by name, with nothing generic left.
#[derive(Clone)]
pub struct Endpoints(HashMap<TaskName, Bounded>);

#[derive(Clone)]
pub(crate) struct Bounded {
    pub options: TaskOptions,
    pub handler: Arc<dyn Endpoint>,
}

impl Endpoints {
    pub(crate) fn get(&self, name: &TaskName) -> Option<&Bounded> {
        self.0.get(name)
    }

    /// Whether there is a handler for these tasks.
    pub(crate) fn knows(&self, name: &TaskName) -> bool {
        self.0.contains_key(name)
    }

    /// The queues that these tasks wait in by their own options.
    pub fn queues(&self) -> Vec<QueueName> {
        let mut queues: Vec<QueueName> =
            self.0.values().filter_map(|bounded| bounded.options.queue.parse().ok()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

impl<S> fmt::Debug for Registry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.registrations.iter().map(|registration| &registration.entry.name);
        f.debug_list().entries(names).finish()
    }
}

impl<S> fmt::Debug for RegistryBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryBuilder({})", self.registrations.len())
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use umbel_proto::Task;

    use super::*;
    use crate::{Context, TaskResult};

    macro_rules! task {
        ($type:ident, $name:literal, $queue:literal) => {
            #[derive(Serialize, Deserialize, JsonSchema)]
            struct $type {}

            impl Task for $type {
                const NAME: &'static str = $name;
                const OPTIONS: TaskOptions = TaskOptions::DEFAULT.queue($queue);
                type Output = ();
            }

            impl Handler<()> for $type {
                async fn run(self, _: &Context<()>) -> TaskResult<()> {
                    Ok(())
                }
            }
        };
    }

    task!(First, "shop.first", "default");
    task!(Second, "shop.second", "mail");
    task!(Again, "shop.first", "default");
    task!(Misnamed, "Shop First", "default");
    task!(Misqueued, "shop.third", "workers");

    #[test]
    fn tasks_are_found_by_name_and_tell_their_queues() {
        let registry =
            Registry::builder().register::<First>().register::<Second>().build().unwrap();
        let names: Vec<_> = registry.catalog().iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["shop.first", "shop.second"]);
        let endpoints = registry.bind(());
        assert!(endpoints.get(&"shop.second".parse().unwrap()).is_some());
        assert!(endpoints.get(&"shop.third".parse().unwrap()).is_none());
        let queues: Vec<_> = endpoints.queues().iter().map(ToString::to_string).collect();
        assert_eq!(queues, ["default", "mail"]);
    }

    #[test]
    fn a_name_used_twice_or_wrong_stops_the_boot() {
        let twice = Registry::builder().register::<First>().register::<Again>().build();
        assert!(matches!(twice, Err(RegistryError::Twice(name)) if name.as_str() == "shop.first"));
        assert!(Registry::<()>::builder().register::<Misnamed>().build().is_err());
        assert!(Registry::<()>::builder().register::<Misqueued>().build().is_err());
    }
}
