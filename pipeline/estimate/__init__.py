"""`promptmill estimate`: what a job will come to before it is run, in tokens, requests, money and time.

    population  how large each row is: all prompts counted, or some of them and the rows' lengths
    options     the models and routes whose price is asked for
    settled     what is known of rows that have their outcome: in the job's own run folder, or in another
    judging     both brought together: what is known, what is expected and between what it lies, and the most
    routes      what a route means beside its price: time at the limits, and when a batch is cheaper
    words       what must be said beside the figures
    progress    how far the counting is
    figures     the estimate as it is handed over: plain values, JSON
    tables      the estimate as tables, for a terminal and a page
    page        the estimate as one HTML file

The statistics are in `pipeline/sampling.py`, the tokenizer's work in `pipeline/counting.py`.
"""

from pipeline.estimate.figures import Cost, Estimate, Source, as_json
from pipeline.estimate.judging import judge
from pipeline.estimate.options import Option, options_of
from pipeline.estimate.population import Population, count_all, count_some
from pipeline.estimate.settled import Settled, read_other, read_own

__all__ = [
    "Cost",
    "Estimate",
    "Option",
    "Population",
    "Settled",
    "Source",
    "as_json",
    "count_all",
    "count_some",
    "judge",
    "options_of",
    "read_other",
    "read_own",
]
