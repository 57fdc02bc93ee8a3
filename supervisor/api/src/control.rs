//! control: the operations of the control API, each defined once.
//!
//! Job: one table, from which follow the trait that loomd implements, the client with the same trait, the routes and
//! `schemas/control.json`. HTTP/1.1 and JSON over a unix socket; `curl --unix-socket` is a debugger.
//! May touch: view types, a socket (the client). Keeps: server and client cannot disagree about a route or a type; every
//! refusal is a [`Refusal`], whatever failed.

mod client;
mod name;
mod serve;

pub use client::{ANSWER_LIMIT, CONNECT_LIMIT, Client};
pub use name::resolve_unit;
pub use serve::{Body, answer, refusal_response};

use crate::view::*;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc;

/// The largest body of a request: a state value of 1 MiB is refused by its own limit before this one.
pub const BODY_MAX_BYTES: usize = 1 << 20;

/// An answer to come.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// An answer in parts: newline-delimited JSON. Dropping it tells the other side that nobody listens any more.
pub struct Lines<T>(pub mpsc::Receiver<T>);

/// One operation, for people and for the schema.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// HTTP method.
    pub method: &'static str,
    /// Path with `{names}`, which are fields of the request.
    pub path: &'static str,
    /// The method of [`Control`].
    pub name: &'static str,
    /// What it does, one line.
    pub about: &'static str,
}

/// What goes out as an answer: a value, or lines of values.
pub trait Payload: Sized + Send + 'static {
    /// Whether it comes in lines.
    const LINES: bool;
    /// The body that carries it.
    fn into_body(self) -> Body;
    /// Reads it from what the server sent.
    fn read(response: hyper::Response<hyper::body::Incoming>) -> impl Future<Output = Result<Self, Refusal>> + Send;
    /// Its schema; of one line, if it comes in lines.
    fn schema(generator: &mut SchemaGenerator) -> schemars::Schema;
}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Payload for T {
    const LINES: bool = false;
    fn into_body(self) -> Body {
        Body::whole(&self)
    }
    async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Self, Refusal> {
        client::read_whole(response).await
    }
    fn schema(generator: &mut SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<T>()
    }
}

impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Payload for Lines<T> {
    const LINES: bool = true;
    fn into_body(self) -> Body {
        Body::lines(self.0)
    }
    async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Self, Refusal> {
        Ok(Lines(client::read_lines(response).await?))
    }
    fn schema(generator: &mut SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<T>()
    }
}

macro_rules! operations {
    ($($(#[doc = $about:literal])+ $method:ident $path:literal => $name:ident($request:ty) -> $answer:ty;)+) => {
        /// What loomd does when asked. Implemented by loomd in full, by [`Client`] over the socket, and by tests.
        pub trait Control: Send + Sync + 'static {
            $($(#[doc = $about])+ fn $name(&self, request: $request) -> Answering<'_, $answer>;)+
        }

        /// The table as data.
        pub const OPERATIONS: &[Operation] = &[$(Operation {
            method: stringify!($method),
            path: $path,
            name: stringify!($name),
            about: concat!($($about),+).trim_ascii(),
        }),+];

        impl Control for Client {
            $(fn $name(&self, request: $request) -> Answering<'_, $answer> {
                Box::pin(async move { <$answer>::read(self.send(stringify!($method), $path, &request).await?).await })
            })+
        }

        /// Calls the operation that method and path name. `path` is as it came, still percent-encoded.
        async fn dispatch(
            api: &dyn Control,
            method: &str,
            path: &str,
            query: Option<&str>,
            body: &[u8],
        ) -> Result<Body, Refusal> {
            let mut other_method = None;
            $(
                if let Some(names) = match_path($path, path) {
                    if method == stringify!($method) {
                        let request: $request = request_from(method, names?, query, body)?;
                        return Ok(api.$name(request).await?.into_body());
                    }
                    other_method = Some(stringify!($method));
                }
            )+
            Err(no_route(method, path, other_method))
        }

        /// What `schemas/control.json` must be.
        pub fn schema() -> Value {
            let mut generator = SchemaGenerator::default();
            let operations: Vec<Value> = [$((
                generator.subschema_for::<$request>(), <$answer>::schema(&mut generator), <$answer>::LINES,
            )),+].into_iter().zip(OPERATIONS).map(|((request, answer, lines), operation)| serde_json::json!({
                "name": operation.name,
                "method": operation.method,
                "path": operation.path,
                "about": operation.about,
                "request": request,
                "answer": answer,
                "answer_in_lines": lines,
            })).collect();
            let refusal = generator.subschema_for::<Refusal>();
            serde_json::json!({
                "title": "Loom control API",
                "version": VERSION,
                "about": "HTTP/1.1 and JSON over the socket `control.sock` of the runtime directory. Fields of a request that \
                          the path names are taken from it; the others from the query of GET and DELETE, from the JSON body \
                          of POST and PUT. Any other status than 200 carries a refusal.",
                "operations": operations,
                "refusal": refusal,
                "$defs": generator.take_definitions(true),
            })
        }
    };
}

operations! {
    /// Answers as soon as loomd serves requests.
    GET "/v1/ping" => ping(Nothing) -> Pong;
    /// Tells about the supervisor, all units and the files that could not be loaded.
    GET "/v1/status" => status(Nothing) -> Overview;
    /// Tells about one unit in detail.
    GET "/v1/units/{unit}" => unit(UnitAsked) -> UnitView;
    /// Starts a unit and answers once it is active.
    POST "/v1/units/{unit}/start" => start_unit(JobRequest) -> UnitView;
    /// Stops a unit and answers once its processes are gone.
    POST "/v1/units/{unit}/stop" => stop_unit(JobRequest) -> UnitView;
    /// Stops a unit, starts it again and answers once it is active.
    POST "/v1/units/{unit}/restart" => restart_unit(JobRequest) -> UnitView;
    /// Does one thing with several units, and tells of each how it went as it goes.
    POST "/v1/jobs" => jobs(JobsRequest) -> Lines<JobNews>;
    /// Writes a unit file that is gone with its unit, and starts that.
    POST "/v1/transient" => run_transient(TransientRequest) -> UnitView;
    /// Tells what happened to units, and goes on with what happens.
    GET "/v1/events" => events(EventsAsked) -> Lines<LifeEvent>;
    /// Tells how units depend on one another, and when each came up.
    GET "/v1/graph" => graph(Nothing) -> GraphView;
    /// Tells what units use of the machine now.
    GET "/v1/usage" => usage(Nothing) -> UsageView;
    /// Lists crash reports.
    GET "/v1/crashes" => crashes(CrashesAsked) -> CrashesView;
    /// Tells a unit's files with their text.
    GET "/v1/units/{unit}/files" => unit_files(UnitAsked) -> UnitFiles;
    /// Tells a unit's settings in force and where each comes from.
    GET "/v1/units/{unit}/show" => show_unit(UnitAsked) -> UnitSettings;
    /// Reads all unit files anew; with an error in one of them nothing changes.
    POST "/v1/daemon-reload" => daemon_reload(ReloadRequest) -> ReloadReport;
    /// Tries the loomd program that now lies where this one was started from, answers, then becomes it; units run on.
    POST "/v1/daemon-reexec" => daemon_reexec(Nothing) -> Pong;
    /// Lists the keys of an agent's state.
    GET "/v1/units/{unit}/state" => state_keys(UnitAsked) -> StateKeys;
    /// Reads one entry of an agent's state.
    GET "/v1/units/{unit}/state/{key}" => state_get(StateAsked) -> StateEntry;
    /// Writes one entry of an agent's state and answers once it is on disk.
    PUT "/v1/units/{unit}/state/{key}" => state_put(StatePut) -> StateEntry;
    /// Deletes one entry of an agent's state, answers once that is on disk and tells what it was.
    DELETE "/v1/units/{unit}/state/{key}" => state_delete(StateAsked) -> StateEntry;
    /// Sends a request to a topic; hanging up cancels it.
    POST "/v1/bus/request" => bus_request(BusRequest) -> Lines<BusAnswer>;
    /// Publishes an event.
    POST "/v1/bus/publish" => bus_publish(BusPublish) -> Published;
    /// Lists tool calls as audited.
    GET "/v1/audit" => audit(AuditAsked) -> AuditView;
    /// Lists schedules: when each elapses next, and what became of its last slot.
    GET "/v1/schedules" => schedules(Nothing) -> ScheduleList;
    /// Lists the firings of one schedule.
    GET "/v1/schedules/{unit}" => firings(UnitAsked) -> FiringList;
    /// Fires a schedule by hand and answers once its unit's start was asked for.
    POST "/v1/schedules/{unit}/fire" => fire(UnitAsked) -> Fired;
}

/// The schema as it is committed: pretty, with a final newline.
pub fn schema_text() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).expect("a JSON value prints");
    text.push('\n');
    text
}

/// The `{names}` of `template` and their values in `path`, if they fit.
fn match_path(template: &str, path: &str) -> Option<Result<Map<String, Value>, Refusal>> {
    let (mut wanted, mut found) = (template.split('/'), path.split('/'));
    let mut names = Vec::new();
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => break,
            (Some(part), Some(text)) => match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) if !text.is_empty() => names.push((name, text)),
                Some(_) => return None,
                None if part == text => {}
                None => return None,
            },
            (None, Some(_)) | (Some(_), None) => return None,
        }
    }
    Some(names.into_iter().map(|(name, text)| Ok((name.to_owned(), Value::String(decode(text)?)))).collect())
}

/// Puts a request together from path, query and body.
fn request_from<T: DeserializeOwned>(
    method: &str,
    names: Map<String, Value>,
    query: Option<&str>,
    body: &[u8],
) -> Result<T, Refusal> {
    let mut fields = match method {
        "POST" | "PUT" if !body.is_empty() => match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(Refusal::new(Refusal::USAGE, "the body is no JSON object")),
            Err(error) => return Err(Refusal::new(Refusal::USAGE, "the body is no JSON").because(error.to_string())),
        },
        "POST" | "PUT" => Map::new(),
        _ => query_fields(query.unwrap_or_default())?,
    };
    fields.extend(names);
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        Refusal::new(Refusal::USAGE, "the request is not as the schema says").because(error.to_string())
    })
}

fn query_fields(query: &str) -> Result<Map<String, Value>, Refusal> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, Value::String(decode(value)?)))
    });
    pairs.collect()
}

fn no_route(method: &str, path: &str, other_method: Option<&str>) -> Refusal {
    let refusal = Refusal::new(Refusal::USAGE, format!("there is no operation `{method} {path}`"));
    match other_method {
        Some(other) => refusal.try_this(format!("use {other}; see schemas/control.json")),
        None => refusal.try_this("see schemas/control.json"),
    }
}

/// Percent-encodes all but what every part of a URL may hold.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'@' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn decode(text: &str) -> Result<String, Refusal> {
    let refuse = || Refusal::new(Refusal::USAGE, format!("`{text}` is not percent-encoded UTF-8"));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| (byte as char).to_digit(16)).ok_or_else(refuse);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte"));
    }
    String::from_utf8(out).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_what_the_code_says() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/control.json");
        if std::env::var_os("LOOM_UPDATE_SCHEMAS").is_some_and(|value| value == "1") {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas")).unwrap();
            std::fs::write(file, schema_text()).unwrap();
        }
        let committed = std::fs::read_to_string(file).unwrap_or_default();
        assert!(committed == schema_text(), "schemas/control.json is old; LOOM_UPDATE_SCHEMAS=1 writes it anew");
    }

    #[test]
    fn every_name_in_a_path_is_a_field_of_its_request() {
        for operation in schema()["operations"].as_array().unwrap() {
            let path = operation["path"].as_str().unwrap();
            let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
            let schema = schema();
            let reference = operation["request"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            for name in names {
                assert!(schema["$defs"][reference]["properties"].get(name).is_some(), "{path} {name}");
            }
        }
    }

    #[test]
    fn any_text_survives_a_path() {
        for text in ["a/b", "100%", "käse", "x@7:\\x2f", "?&=+ "] {
            let path = format!("/v1/units/chat/state/{}", encode(text));
            let names = match_path("/v1/units/{unit}/state/{key}", &path).unwrap().unwrap();
            assert_eq!(names["key"], text);
        }
        assert!(match_path("/v1/units/{unit}", "/v1/units/").is_none());
        assert!(match_path("/v1/units/{unit}", "/v1/units/%zz").unwrap().is_err());
    }
}
