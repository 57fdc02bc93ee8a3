//! looper/api/schedules: what is asked about schedules.
//!
//! Job: list them and their firings, fire one by hand. May touch: the loop, through its questions.
//! Keeps: a name without its kind means a schedule here.

use super::{Api, Ask, Kind, PERSON, UnitId};
use loom_api::view::{Fired, FiringList, Refusal, ScheduleList, VERSION};

impl Api {
    pub(super) async fn list_schedules(&self) -> Result<ScheduleList, Refusal> {
        let schedules = self.ask(|reply| Ask::Schedules { reply }).await?;
        Ok(ScheduleList { version: VERSION, schedules })
    }

    pub(super) async fn firings_of(&self, asked: &str) -> Result<FiringList, Refusal> {
        let schedule = self.schedule(asked).await?;
        let firings = self.ask(|reply| Ask::Firings { schedule: schedule.clone(), reply }).await?;
        firings.ok_or_else(|| Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no schedule `{schedule}`")))
    }

    pub(super) async fn fire_by_hand(&self, asked: &str) -> Result<Fired, Refusal> {
        let schedule = self.schedule(asked).await?;
        let fired = self.ask(|reply| Ask::Fire { schedule: schedule.clone(), by: PERSON.to_owned(), reply }).await?;
        fired.map_err(|because| {
            Refusal::new(Refusal::FAILED, format!("`{schedule}` did not fire")).because(because).try_this(format!(
                "`loomctl list-timers` shows where it stands; `loomctl start {schedule}` makes it active"
            ))
        })
    }

    async fn schedule(&self, asked: &str) -> Result<UnitId, Refusal> {
        let whole = if asked.parse::<UnitId>().is_ok() { asked.to_owned() } else { format!("{asked}.schedule") };
        let unit = self.find(&whole).await?;
        if unit.kind() == Kind::Schedule {
            return Ok(unit);
        }
        Err(Refusal::new(Refusal::NO_SUCH_UNIT, format!("`{unit}` is no schedule"))
            .try_this("`loomctl list-timers` shows all schedules"))
    }
}
