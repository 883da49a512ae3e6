"""The command line, one file a command: which words call what?"""
