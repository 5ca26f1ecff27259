//! Which services a page shows: all, those that its query names, or so many at a time. With ten
//! thousand services all of them are tens of megabytes.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Query},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};

use crate::{config::Goal, discovery::Directory, service::Service};

/// What a query asks for: `service` any number of times, or `limit` and `after`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    names: Vec<String>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Services that a page shows.
pub(super) struct Page {
    pub(super) services: Vec<Arc<Service>>,
    /// The last of them, where there are more.
    pub(super) next: Option<Arc<str>>,
}

impl Selection {
    /// Those that a query names.
    pub(super) fn named(&self) -> &[String] {
        &self.names
    }

    fn read(pairs: Vec<(String, String)>) -> Result<Self, String> {
        let mut selection = Self::default();
        for (key, value) in pairs {
            match key.as_str() {
                "service" => selection.names.push(value),
                "after" => selection.after = Some(value),
                "limit" => match value.parse() {
                    Ok(limit) if limit > 0 => selection.limit = Some(limit),
                    _ => return Err(format!("limit={value}: expected a number from 1 on")),
                },
                _ => return Err(format!("{key}: it may be service, or limit and after")),
            }
        }
        let is_paged = selection.limit.is_some() || selection.after.is_some();
        if is_paged && !selection.names.is_empty() {
            return Err("service names what is shown, and limit and after page through all".into());
        }
        Ok(selection)
    }

    /// Whether what belongs to no service is shown too: by a page that goes on after another it was
    /// shown before.
    pub(super) fn begins(&self) -> bool {
        self.after.is_none()
    }

    /// Whether a service of this name may be on the page.
    pub(super) fn names(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|one| one == name)
    }

    /// Whether a route with this goal may lead to a service on the page.
    pub(super) fn names_one_of(&self, goal: &Goal) -> bool {
        *goal == Goal::Template || goal.services().any(|service| self.names(service))
    }

    /// The services that it asks for: in the order of their names, where they come in pages.
    pub(super) fn of(&self, directory: &Directory) -> Page {
        let mut page = Page {
            services: Vec::new(),
            next: None,
        };
        if !self.names.is_empty() {
            let named = self.names.iter().filter_map(|name| directory.service(name));
            page.services = named.collect();
            return page;
        }
        page.services = directory.services();
        if self.limit.is_some() || self.after.is_some() {
            page.services.sort_by(|a, b| a.name().cmp(b.name()));
            if let Some(after) = &self.after {
                page.services.retain(|service| **service.name() > **after);
            }
            let limit = self.limit.unwrap_or(usize::MAX);
            if page.services.len() > limit {
                page.services.truncate(limit);
                page.next = page.services.last().map(|last| Arc::clone(last.name()));
            }
        }
        page
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Selection {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let pairs = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let pairs = pairs.map_err(IntoResponse::into_response)?;
        Self::read(pairs.0).map_err(|error| {
            let text = format!("the query is not understood: {error}\n");
            (StatusCode::BAD_REQUEST, text).into_response()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Selection, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Selection::read(pairs.iter().map(owned).collect())
    }

    #[test]
    fn a_query_names_services_or_pages_through_all_and_nothing_else() {
        assert_eq!(read(&[]), Ok(Selection::default()));
        let two = read(&[("service", "a"), ("service", "b")]).unwrap();
        assert!(two.names("a") && two.names("b") && !two.names("c") && two.begins());
        let page = read(&[("limit", "5"), ("after", "a")]).unwrap();
        assert!(page.names("c") && !page.begins());
        for wrong in [
            &[("limit", "0")][..],
            &[("limit", "a")],
            &[("services", "a")],
            &[("service", "a"), ("limit", "5")],
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
