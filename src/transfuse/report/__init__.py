"""The report: figures and one self-contained HTML page, made from tables alone."""
