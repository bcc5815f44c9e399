//! What a page says of the organisation behind it, its product or its article, from JSON-LD and
//! microdata alike.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text::tidy;

/// A page is about one thing or a list of a few; a shop's category may have dozens of products.
pub(super) const MAX_THINGS: usize = 16;
/// The richest of the kinds below has about twenty properties.
const MAX_PROPERTIES: usize = 24;
const MAX_VALUE_BYTES: usize = 512;

/// Something that schema.org describes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Its type as the page names it, without the address of schema.org: `NewsArticle`.
    #[serde(rename = "type")]
    pub name: String,
    /// Its properties by the names of schema.org; of several values the first. The names of
    /// things within it (`author`, `publisher`, `brand`) stand for them, and what a product is
    /// offered for stands beside it: `price`, `priceCurrency`, `availability`, `ratingValue`.
    pub properties: BTreeMap<String, String>,
}

/// The kinds of things that are kept.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Who is behind the page: a company, a shop, an authority.
    Organization,
    /// What it sells.
    Product,
    /// What it tells.
    Article,
}

impl Kind {
    /// The kind of a type of schema.org, if it is one that is kept.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "Organization"
            | "Corporation"
            | "LocalBusiness"
            | "NGO"
            | "Store"
            | "OnlineStore"
            | "OnlineBusiness"
            | "NewsMediaOrganization"
            | "EducationalOrganization"
            | "CollegeOrUniversity"
            | "School"
            | "GovernmentOrganization"
            | "MedicalOrganization"
            | "ProfessionalService"
            | "Restaurant"
            | "Hotel"
            | "SportsOrganization"
            | "Airline" => Some(Self::Organization),
            "Product"
            | "ProductGroup"
            | "ProductModel"
            | "IndividualProduct"
            | "Vehicle"
            | "Car"
            | "SoftwareApplication"
            | "MobileApplication"
            | "WebApplication" => Some(Self::Product),
            "Article"
            | "NewsArticle"
            | "BlogPosting"
            | "TechArticle"
            | "ScholarlyArticle"
            | "Report"
            | "LiveBlogPosting"
            | "OpinionNewsArticle"
            | "AnalysisNewsArticle"
            | "ReportageNewsArticle"
            | "ReviewNewsArticle" => Some(Self::Article),
            _ => None,
        }
    }
}

/// The properties that are kept, of any kind.
const KEPT: [&str; 30] = [
    "alternateName",
    "author",
    "availability",
    "brand",
    "category",
    "dateModified",
    "datePublished",
    "description",
    "email",
    "foundingDate",
    "gtin",
    "gtin13",
    "headline",
    "highPrice",
    "image",
    "inLanguage",
    "legalName",
    "logo",
    "lowPrice",
    "mpn",
    "name",
    "price",
    "priceCurrency",
    "publisher",
    "ratingValue",
    "reviewCount",
    "sku",
    "telephone",
    "url",
    "vatID",
];

/// Properties whose value is a thing that is told of in the words of the outer one.
const WITHIN: [&str; 3] = ["offers", "aggregateRating", "priceSpecification"];

/// What of such a thing belongs to the outer one too.
const TOLD: [&str; 7] = [
    "availability",
    "highPrice",
    "lowPrice",
    "price",
    "priceCurrency",
    "ratingValue",
    "reviewCount",
];

/// A thing while it is being read.
#[derive(Debug, Default)]
pub(super) struct Draft {
    types: Vec<String>,
    properties: BTreeMap<&'static str, String>,
}

impl Draft {
    /// Adds a type as a page writes it: `Product`, `schema:Product`, `https://schema.org/Product`.
    pub fn is_a(&mut self, written: &str) {
        let written = written.trim().trim_end_matches('/');
        let name = written.rsplit(['/', '#', ':']).next().unwrap_or_default();
        // Things with more than one type have two.
        if self.types.len() < 4 && Kind::of(name).is_some() {
            self.types.push(name.to_owned());
        }
    }

    /// Adds the value of a property, unless there is one or nobody wants it.
    pub fn says(&mut self, property: &str, value: &str) {
        let Ok(place) = KEPT.binary_search(&property) else { return };
        if self.properties.len() < MAX_PROPERTIES
            && !self.properties.contains_key(KEPT[place])
            && let Some(value) = tidy(value, MAX_VALUE_BYTES)
        {
            self.properties.insert(KEPT[place], value);
        }
    }

    /// Takes what a thing within this one, the value of `property`, says of it.
    pub fn has(&mut self, property: &str, within: &Draft) {
        if WITHIN.contains(&property) {
            for (name, value) in &within.properties {
                if TOLD.contains(name) {
                    self.says(name, value);
                }
            }
        } else if let Some(name) = ["name", "url"].iter().find_map(|p| within.properties.get(p)) {
            self.says(property, name);
        }
    }

    /// The thing, if it is one that is kept and says anything.
    pub fn finish(&self) -> Option<Thing> {
        let name = self.types.first()?;
        let kind = Kind::of(name)?;
        if self.properties.is_empty() {
            return None;
        }
        let properties = &self.properties;
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Some(Thing { kind, name: name.clone(), properties: properties.collect() })
    }
}

/// Adds a thing unless it is known or there are enough.
pub(super) fn keep(things: &mut Vec<Thing>, thing: Thing) {
    if things.len() < MAX_THINGS && !things.contains(&thing) {
        things.push(thing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_properties_are_in_order() {
        assert!(KEPT.is_sorted(), "they are searched by halves");
    }

    #[test]
    fn a_type_is_known_however_it_is_written() {
        for written in [
            "Product",
            "schema:Product",
            "http://schema.org/Product",
            "https://schema.org/Product/",
        ] {
            let mut draft = Draft::default();
            draft.is_a(written);
            draft.says("name", "Lamp");
            draft.says("name", "the second does not count");
            draft.says("weight", "nobody asks");
            let thing = draft.finish().unwrap();
            assert_eq!((thing.kind, thing.name.as_str()), (Kind::Product, "Product"), "{written}");
            assert_eq!(thing.properties, BTreeMap::from([("name".into(), "Lamp".into())]));
        }
        let mut draft = Draft::default();
        draft.is_a("BreadcrumbList");
        draft.says("name", "crumbs");
        assert_eq!(draft.finish(), None);
    }
}
