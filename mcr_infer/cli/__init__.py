"""The command line, one file a group of commands.

arguments -> app -> a command (embed, query, ...) -> the library -> output, progress -> stdout, stderr
"""
