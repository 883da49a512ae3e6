"""Pictures: how does a run, or an experiment, draw curves, histograms and images?"""
