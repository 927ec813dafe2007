//! The body of `:predictLongRunning`.

use serde::Deserialize;

use super::{
    super::{
        SimulatedProvider, cases,
        films::Size,
        knobs::{Knobs, suffix},
        models::{self, Model, Use},
        videos::Order,
    },
    error::GeminiError,
};

const DEFAULT_SECONDS: u32 = 8;

#[derive(Deserialize)]
struct Body {
    instances: Vec<Instance>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct Instance {
    #[serde(default)]
    prompt: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    aspect_ratio: Option<String>,
    resolution: Option<String>,
    duration_seconds: Option<u32>,
}

/// As far as the simulator minds it: no pictures, and one film.
pub(super) fn into_order(model: &str, body: &[u8]) -> Result<Order, GeminiError> {
    let (model, knobs) = find_model(model)?;
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| GeminiError::invalid(format!("Invalid JSON payload received. {error}")))?;
    let prompt = body.instances.into_iter().next().map(|instance| instance.prompt).filter(|prompt| !prompt.is_empty());
    let prompt = prompt.ok_or_else(|| GeminiError::invalid("The prompt must not be empty.".to_owned()))?;
    let Parameters { aspect_ratio, resolution, duration_seconds } = body.parameters;
    let (lines, is_large) = match resolution.as_deref().unwrap_or("720p") {
        "720p" => (720, false),
        "1080p" => (1_080, true),
        "4k" => (2_160, true),
        other => return Err(unsupported("resolution", other)),
    };
    let (long, short) = (lines * 16 / 9, lines);
    let size = match aspect_ratio.as_deref().unwrap_or("16:9") {
        "16:9" => Size { width: long, height: short },
        "9:16" => Size { width: short, height: long },
        other => return Err(unsupported("aspectRatio", other)),
    };
    let seconds = duration_seconds.unwrap_or(DEFAULT_SECONDS);
    // What is larger than 720p has 8 seconds (Gemini API, "Generate videos with Veo 3.1", parameters).
    let is_made = if is_large { seconds == 8 } else { [4, 6, 8].contains(&seconds) };
    if !is_made {
        return Err(unsupported("durationSeconds", &seconds.to_string()));
    }
    Ok(Order { prompt, model, knobs, seconds, size })
}

/// The model that a name with knobs means. A bad day of another dialect's is none of Veo's.
fn find_model(name: &str) -> Result<(&'static Model, Knobs), GeminiError> {
    if name.starts_with(cases::PREFIX) {
        let case = cases::named(cases::of_videos(), name);
        return Ok((models::default(SimulatedProvider::Gemini), Knobs { case, ..Knobs::default() }));
    }
    let (model, knobs) = suffix::parse(name).map_err(GeminiError::invalid)?;
    let found = models::find(SimulatedProvider::Gemini, model).filter(|model| model.use_ == Use::Video);
    found.map(|found| (found, knobs)).ok_or_else(|| GeminiError::unknown_model(model))
}

fn unsupported(field: &str, value: &str) -> GeminiError {
    GeminiError::invalid(format!("`{field}` does not support the value {value} with these parameters. (simulated)"))
}
