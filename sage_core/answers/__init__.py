"""The answers of judge, annotator and selector: what was asked, what was read, what was not.

A model answers in words, whatever form it is asked for. :mod:`.text` sets aside what is not the
answer (reasoning, fences), :mod:`.verdicts` and :mod:`.objects` find the verdict or the JSON object
in it, and :mod:`.asking` gives each request one of :mod:`.outcomes`. :mod:`.tally` counts these for
a stage and ends it where too few answers were read.
"""
