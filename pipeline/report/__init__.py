"""Reports on runs that went, or go on: what their part files and journals tell, as figures, and the shapes figures are shown in.

    read        a run folder -> RunFacts, in one pass over its parts, in memory that does not grow with them
    facts       what is known of a run: sums by day, model, outcome; spreads; extremes; examples
    spread      percentiles of any number of values, within one in a hundred
    gather      rows -> facts, many at once, by polars
    tables, many, labelled, over_time, foreseen, months    facts -> tables (`shown`), the same wherever they are shown
    charts      facts -> charts, drawn by `drawing`
    compose     which of all that make a report
    terminal, page, as_json, as_parquet    the places it goes to

Nothing here asks, writes to a run folder, or prices what has its price.
"""
