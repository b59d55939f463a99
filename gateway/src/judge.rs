//! One statement's judgement: analysis, catalog and policy brought together.
