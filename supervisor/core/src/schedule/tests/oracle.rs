//! systemd itself says what calendar expressions mean.

use super::*;
use std::process::Command;

/// What `systemd-analyze calendar` says: the normal form and the next elapses; `None` if it refuses.
struct Verdict {
    normal: String,
    elapses: Vec<u64>,
}

fn ask(text: &str, base: &str, iterations: usize) -> Option<Verdict> {
    let output = Command::new("systemd-analyze")
        .args(["calendar", &format!("--iterations={iterations}"), &format!("--base-time={base}"), "--", text])
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .expect("it ran before");
    if !output.status.success() {
        return None;
    }
    let stdout = String::from_utf8(output.stdout).unwrap();
    let field = |line: &str| line.split_once(": ").map(|(_, value)| value.trim().to_owned());
    let mut normal = text.to_owned();
    let mut elapses = vec![];
    for line in stdout.lines() {
        let line = line.trim_start();
        if line.starts_with("Normalized form:") {
            normal = field(line).unwrap();
        } else if line.starts_with("Next elapse:") || line.starts_with("Iter. #") {
            let value = field(line).unwrap();
            if value != "never" {
                // `Mon 2024-03-04 12:00:00 UTC`
                elapses.push(utc(&value[4..23]));
            }
        }
    }
    Some(Verdict { normal, elapses })
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len() as u64) as usize]
    }

    fn chain(&mut self, low: u64, high: u64) -> String {
        if self.chance(30) {
            return "*".into();
        }
        let count = 1 + self.roll(3);
        let mut values = vec![];
        for _ in 0..count {
            let start = low + self.roll(high - low + 1);
            let mut value = if self.chance(50) { format!("{start:02}") } else { format!("{start}") };
            if self.chance(25) {
                value += &format!("..{}", start + self.roll((high + 1).saturating_sub(start) + 1));
            }
            if self.chance(25) {
                value += &format!("/{}", 1 + self.roll(7));
            }
            values.push(value);
        }
        values.join(",")
    }

    fn expression(&mut self) -> String {
        let mut parts = vec![];
        if self.chance(30) {
            let days = ["Mon", "tuesday", "WED", "Thu", "Friday", "sat", "Sun"];
            parts.push(match self.roll(3) {
                0 => self.pick(&days).to_owned(),
                1 => format!("{},{}", self.pick(&days), self.pick(&days)),
                _ => format!("{}..{},{}", self.pick(&days), self.pick(&days), self.pick(&days)),
            });
        }
        if self.chance(70) {
            let year = if self.chance(70) { "*".into() } else { self.chain(2020, 2032) };
            let (month, mark) = (self.chain(1, 12), self.pick(&["-", "-", "~"]));
            let day = if mark == "~" { self.chain(1, 28) } else { self.chain(1, 31) };
            parts.push(if self.chance(20) {
                format!("{month}{mark}{day}")
            } else {
                format!("{year}-{month}{mark}{day}")
            });
        }
        if self.chance(70) {
            let (hour, minute) = (self.chain(0, 23), self.chain(0, 59));
            parts.push(if self.chance(50) {
                format!("{hour}:{minute}")
            } else {
                format!("{hour}:{minute}:{}", self.chain(0, 59))
            });
        }
        if self.chance(20) {
            parts.push(self.pick(&["UTC", "utc", "Asia/Tokyo", "America/Bogota"]).to_owned());
        }
        parts.join(" ")
    }
}

const TABLE: &[&str] = &[
    "minutely",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "quarterly",
    "semiannually",
    "semi-annually",
    "biannually",
    "bi-annually",
    "yearly",
    "annually",
    "anually",
    "Weekly",
    "weekly UTC",
    "daily Asia/Tokyo",
    "hourly utc",
    "noon",
    "24-1-1",
    "99-1-1",
    "1-2-3",
    "70-01-01",
    "69-01-01",
    "Mon,",
    "Mon..",
    "Mon-Fri",
    "Fri..Mon",
    "Mon..Sun 1:0",
    "mon..wed,fri *-*~1",
    "*-02~01..03",
    "*-*~07/1",
    "Mon *-05~07/1",
    "@1700000000",
    "@4102444800",
    "@x",
    "12",
    "12:00",
    "1..1:00",
    "1..5/3:00",
    "*-*-31",
    "05,04,05:00",
    "0/1:0",
    "*-*-01/40",
    "2024-*-* 1:2:3 Asia/Tokyo",
    "12:00  UTC",
    "2199-12-31",
    "2200-1-1",
    "1969-1-1",
    "*-02-30",
    "*-1,2~3",
    "~1",
    "*~1",
    "*-*",
    "*-* 12:00",
    "02-29 00:00",
    "*:59..60",
    "*:*:60",
    "12:",
    ":12",
    "Mon 12:00",
    "Monday",
    "Monday..Friday 9:00",
    "Mon *-*-*",
    "Mon,Tue,Wed,Thu,Fri,Sat,Sun 1:1",
    "Sat,Sun 1:1",
    "Sat..Sun,Mon 1:1",
    "Mond 1:1",
    "*-*-1..31/2",
    "2020..2030/3-1-1",
    "*-*-5..1",
    "0..10,5..20/2:0",
    " 12:00",
    "12:00 ",
    "*:*:*",
    "2026-*-31..1",
    "*-*-* *:00/30:00",
    "*-*~31",
    "*-*~28",
    "*-*~29",
    "12:00 UTC UTC",
    "utc",
    "*-*~1..3/2",
    "*-02~5/2",
    "Thu,Fri 2012-*-1,5 11:12:13",
    "Sat,Thu,Mon..Wed,Sat..Sun",
    "Mon,Sun 2012-*-* 2,1:23",
    "Wed *-1",
    "Wed..Wed,Wed *-1",
    "Wed, 17:48",
    "Wed..Sat,Tue 2012-10-15 1:2:3",
    "*-*-7 0:0:0",
    "10-15",
    "monday *-12-* 17:00",
    "Mon,Fri *-*-3,1,2 *:30:45",
    "12,14,13,12:20,10,30",
    "12..14:10,20,30",
    "mon,fri *-1/2-1,3 *:30:45",
    "03-05 08:05:40",
    "08:05:40",
    "05:40",
    "Sat,Sun 12-05 08:05:40",
    "Sat,Sun 08:05:40",
    "2003-03-05 05:40",
    "2003-02..04-05",
    "2003-03-05 05:40 UTC",
    "2003-03-05",
    "03-05",
    "Sat..Thu 2026-11..12-*",
    "*:20..39/5",
    "00:00:00..20",
    "00,06,12,18:00",
    "*-*~1 23:59:59",
    "*-02~1",
    "Mon *-*-1..7 9:00",
    "Sun *-*~7/1 3:00",
    "*:0/07",
    "1/3:0",
    "*:2/3",
    "*:*:2/3",
    "*-*-* 8..20/2:0/15",
    "*-1/3-1",
    "2025/2-1-1",
    "*:00:00.0",
    "*:*:10.000..20",
    "Mon..Tue..Wed",
    "Mon,,Tue",
    "..Mon",
    "*-*-*-*",
    "1:2:3:4",
    "*/2-1-1",
    "*-*/2-1",
    "*-*-*/2",
    "1.5:00",
    "a:b",
    "-1:00",
    "*-0-1",
    "*-1-0",
    "24:00",
    "*:60",
    "2024-02-29",
    "2023-02-29",
    "*-04-31",
    "Mon 2024-01-02",
    "0x10:00",
    "+1:00",
];

#[test]
fn calendar_expressions_mean_what_systemd_says() {
    if Command::new("systemd-analyze").args(["calendar", "daily"]).output().is_err() {
        println!("skipped: needs systemd-analyze");
        return;
    }
    let mut dice = Dice(20_260_301);
    let generated: Vec<String> = (0..300).map(|_| dice.expression()).collect();
    let all = TABLE.iter().map(|text| (*text).to_owned()).chain(generated);
    let (mut taken, mut refused, mut elapses, mut more_days, mut left_out) = (0, 0, 0, 0, 0);
    let mut wrong = vec![];
    for text in all {
        // Past the changes of the clock in any zone of the table.
        let base = ["2024-02-28 22:00:00", "2026-12-31 23:59:59", "2025-06-15 11:22:33"][dice.roll(3) as usize];
        let verdict = ask(&text, &format!("{base} UTC"), 4);
        match (verdict, Calendar::read(&text)) {
            (None, Err(_)) => refused += 1,
            (None, Ok(_)) if text.contains('~') && text.contains(',') => more_days += 1,
            (None, Ok(ours)) => wrong.push(format!("`{text}`: systemd refuses it, ours is `{ours}`")),
            (Some(verdict), Err(problem)) => wrong.push(format!("`{text}` is `{}`; ours: {problem:?}", verdict.normal)),
            (Some(verdict), Ok(ours)) => {
                taken += 1;
                if ours.to_string() != verdict.normal {
                    wrong.push(format!("`{text}`: normal form `{}`, ours `{ours}`", verdict.normal));
                }
                let zone = ours.zone().map_or(Zone::utc(), |name| zone::named(name).unwrap());
                let mut at = utc(base);
                for expected in &verdict.elapses {
                    let mut found = ours.next(&zone, at);
                    // It leaves out the first value after the last of an open repetition.
                    if text.contains('/') && found.is_some_and(|found| found < *expected) {
                        left_out += 1;
                        found = ours.next(&zone, expected - 1);
                    }
                    let too_far = *expected > at + super::super::HORIZON_MS as u64;
                    if found.is_none() && too_far {
                        break;
                    }
                    if found != Some(*expected) {
                        let found = found.map(shown);
                        wrong.push(format!("`{text}` after {}: {}, ours {found:?}", shown(at), shown(*expected)));
                        break;
                    }
                    (at, elapses) = (*expected, elapses + 1);
                }
                if verdict.elapses.is_empty() && ours.next(&zone, at).is_some() {
                    wrong.push(format!("`{text}` never elapses, ours {:?}", ours.next(&zone, at).map(shown)));
                }
                // The normal form means the same, and is its own normal form.
                if Calendar::read(&ours.to_string()).as_ref() != Ok(&ours) {
                    wrong.push(format!("`{text}`: `{ours}` does not read back"));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    println!(
        "{taken} taken, {refused} refused, {elapses} elapses the same, {left_out} left out, {more_days} only ours"
    );
    assert!(left_out < elapses / 10 && more_days < 20, "{left_out} left out, {more_days} only ours");
    assert!(taken > 200 && refused > 40 && elapses > 600, "{taken} taken, {refused} refused, {elapses} elapses");
}
