//! looper/api/transient: units without a file of a person.
//!
//! Job: write a unit file into the transient directory, check it with the same loader, start it, remove it when the unit is down.
//! May touch: that directory. Keeps: a name that a file has is refused; a file that is wrong is gone again at once; a unit that
//! failed stays until somebody resets it, unless it was asked for otherwise, also across a new loomd.

use super::{Api, jobs};
use crate::looper::Ask;
use loom_api::view::{LifeEvent, Refusal, TransientRequest, UnitView};
use loom_core::fleet::Verb;
use loom_core::ids::{Kind, UnitId};
use loom_core::lifecycle::ActiveState;
use loom_core::unit::{Catalogue, Standing, Unit};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The first line of a file whose unit stays after a failure.
const KEPT: &str = "# Made by `loomctl run`: gone when its unit is down, kept if it failed.";
/// The first line of a file whose unit is forgotten however it ended.
const COLLECTED: &str = "# Made by `loomctl run --collect`: gone when its unit is down.";
/// Stages that a unit goes through before whoever asked has its answer.
const STAGES: usize = 4;

/// How far a transient unit has come.
enum Stage {
    /// Its file is right, and its start is asked for.
    Accepted(Box<UnitView>),
    Up(Box<UnitView>),
    Ended(Box<UnitView>),
    Refused(Refusal),
}

impl Api {
    pub(super) async fn start_transient(&self, request: TransientRequest) -> Result<UnitView, Refusal> {
        let (no_wait, wait) = (request.no_wait, request.wait);
        let (stages, mut reached) = mpsc::channel(STAGES);
        let api = self.clone();
        // A caller that hangs up leaves no file that nobody removes.
        tokio::spawn(async move {
            if let Err(refusal) = api.see_through(request, &stages).await {
                let _ = stages.send(Stage::Refused(refusal)).await;
            }
        });
        while let Some(stage) = reached.recv().await {
            match stage {
                Stage::Refused(refusal) => return Err(refusal),
                Stage::Accepted(view) if no_wait => return Ok(*view),
                Stage::Up(view) if !wait => return Ok(*view),
                Stage::Ended(view) => return Ok(*view),
                Stage::Accepted(_) | Stage::Up(_) => {}
            }
        }
        Err(Refusal::new(Refusal::STOPPING, "loomd is on its way down"))
    }

    /// From the request to the removal of the unit's file.
    async fn see_through(&self, request: TransientRequest, stages: &mpsc::Sender<Stage>) -> Result<(), Refusal> {
        let (unit, collect) = (request.unit.clone(), request.collect);
        self.write(request).await?;
        let (_, mut changes) = self.hands.feed().listen([unit.clone()].into(), None);
        let mut outcome = self.give_one(&unit, Verb::Start).await?;
        let _ = stages.send(Stage::Accepted(Box::new(self.after(&unit, None).await?))).await;
        loop {
            tokio::select! {
                outcome = &mut outcome => {
                    let outcome = outcome.map_err(|_| jobs::stopping())?;
                    match jobs::done(&unit, Verb::Start, outcome) {
                        Ok(()) => {
                            if let Ok(view) = self.after(&unit, None).await {
                                let _ = stages.send(Stage::Up(Box::new(view))).await;
                            }
                        }
                        Err(refusal) => {
                            let _ = stages.send(Stage::Refused(refusal)).await;
                        }
                    }
                    break;
                }
                Some(_) = changes.recv() => self.tell_end(&unit, stages).await,
            }
        }
        self.tell_end(&unit, stages).await;
        self.tidy_up(&unit, collect, &mut changes, Some(stages)).await;
        Ok(())
    }

    async fn tell_end(&self, unit: &UnitId, stages: &mpsc::Sender<Stage>) {
        if let Ok(view) = self.after(unit, None).await
            && is_down(view.active_state)
            && view.run.0 > 0
        {
            let _ = stages.try_send(Stage::Ended(Box::new(view)));
        }
    }

    /// Waits until the unit is down for good, and removes it.
    async fn tidy_up(
        &self,
        unit: &UnitId,
        collect: bool,
        changes: &mut mpsc::Receiver<LifeEvent>,
        stages: Option<&mpsc::Sender<Stage>>,
    ) {
        loop {
            let Ok(status) = self.ask(|reply| Ask::Status { unit: unit.clone(), reply }).await else { return };
            let over = match status.map(|status| status.active_state) {
                None | Some(ActiveState::Inactive) => true,
                Some(ActiveState::Failed) => collect,
                Some(
                    ActiveState::Activating | ActiveState::Active | ActiveState::Reloading | ActiveState::Deactivating,
                ) => false,
            };
            if let Some(stages) = stages {
                self.tell_end(unit, stages).await;
            }
            if over {
                break;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
        if let Err(error) = self.remove(unit).await {
            tracing::warn!(%unit, error = %error, "the file of a transient unit stays");
        }
    }

    /// Sees to transient units that an earlier loomd began.
    pub async fn adopt_transient(&self) {
        let names = fs::read_dir(self.dirs.transient()).into_iter().flatten().flatten();
        for file in names {
            let Some(unit) = file.file_name().to_str().and_then(|name| name.strip_suffix(".toml")?.parse().ok()) else {
                continue;
            };
            let Ok(text) = fs::read_to_string(file.path()) else { continue };
            let collect = text.starts_with(COLLECTED);
            if !collect && !text.starts_with(KEPT) {
                continue;
            }
            let (_, mut changes) = self.hands.feed().listen(BTreeSet::from([UnitId::clone(&unit)]), None);
            let api = self.clone();
            tokio::spawn(async move { api.tidy_up(&unit, collect, &mut changes, None).await });
        }
    }

    fn file(&self, unit: &UnitId) -> PathBuf {
        self.dirs.transient().join(format!("{unit}.toml"))
    }

    /// Writes and loads the file, or leaves nothing.
    async fn write(&self, request: TransientRequest) -> Result<(), Refusal> {
        let unit = request.unit;
        match unit.kind() {
            Kind::Agent | Kind::Service => {}
            Kind::Target | Kind::Schedule => {
                return Err(Refusal::new(Refusal::USAGE, format!("`{unit}` runs no command"))
                    .try_this("make it a service or an agent"));
            }
        }
        let _one_at_a_time = self.reading.lock().await;
        let before = self.library.in_force();
        if let Some(file) = taken_by(&before, &unit) {
            return Err(Refusal::new(Refusal::FAILED, format!("the name `{unit}` is taken"))
                .because(format!("`{file}` has it"))
                .try_this("choose another name"));
        }
        if self.ask(|reply| Ask::Status { unit: unit.clone(), reply }).await?.is_some() {
            return Err(Refusal::new(Refusal::FAILED, format!("the name `{unit}` is taken"))
                .because("a unit that has lost its file still runs under it")
                .try_this("choose another name"));
        }
        let (file, directory) = (self.file(&unit), self.dirs.transient());
        let mark = if request.collect { COLLECTED } else { KEPT };
        let text = format!("{mark}\n{}", request.text);
        let (library, id) = (Arc::clone(&self.library), unit.clone());
        let written = file.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&written)?;
            file.write_all(text.as_bytes())?;
            Ok::<_, io::Error>(library.instance(&id))
        });
        let loaded = loaded.await.map_err(io::Error::other).and_then(|loaded| loaded).map_err(|error| {
            let _ = fs::remove_file(&file);
            Refusal::new(Refusal::FAILED, format!("cannot write `{}`", file.display())).because(error.to_string())
        })?;
        let (Standing::Unit, Some(read)) = (loaded.standing, loaded.unit) else {
            let _ = fs::remove_file(&file);
            let mut refusal = Refusal::new(Refusal::BAD_FILE, format!("`{unit}` would be no right unit"));
            refusal.problems = loaded.problems;
            return Err(refusal);
        };
        let mut catalogue = Catalogue::clone(&before);
        catalogue.units.insert(unit.clone(), read.clone());
        catalogue.files.insert(unit.clone(), loaded.files);
        catalogue.origins.insert(unit.clone(), loaded.origins);
        self.library.put_in_force(catalogue);
        self.ask(|reply| Ask::Load { unit: Box::new(read), reply }).await
    }

    /// Forgets the unit, and changes nothing else.
    async fn remove(&self, unit: &UnitId) -> Result<(), Refusal> {
        let _one_at_a_time = self.reading.lock().await;
        match fs::remove_file(self.file(unit)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Refusal::new(Refusal::FAILED, "cannot remove its file").because(error.to_string()));
            }
            Ok(()) | Err(_) => {}
        }
        let mut catalogue = Catalogue::clone(&self.library.in_force());
        catalogue.units.remove(unit);
        catalogue.files.remove(unit);
        catalogue.origins.remove(unit);
        let mut units: BTreeMap<UnitId, Unit> = catalogue.units.clone();
        self.library.put_in_force(catalogue);
        // Instances that were started by name stand in no catalogue.
        for status in self.ask(|reply| Ask::Statuses { reply }).await? {
            if status.unit != *unit && !status.not_found && !units.contains_key(&status.unit) {
                let known = self.ask(|reply| Ask::Unit { unit: status.unit.clone(), reply }).await?;
                units.extend(known.map(|known| (status.unit, known)));
            }
        }
        self.ask(|reply| Ask::Reload { units, reply }).await
    }
}

fn is_down(state: ActiveState) -> bool {
    match state {
        ActiveState::Inactive | ActiveState::Failed => true,
        ActiveState::Activating | ActiveState::Active | ActiveState::Reloading | ActiveState::Deactivating => false,
    }
}

/// The file that has this name, or the template that would make it; a mask is one too.
fn taken_by(catalogue: &Catalogue, unit: &UnitId) -> Option<String> {
    let file = catalogue.taken_by(unit).map(str::to_owned);
    file.or_else(|| catalogue.masked.contains(unit).then(|| "a link to /dev/null".to_owned()))
}
