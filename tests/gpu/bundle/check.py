class Failed(Exception): pass
def run(*a): pass
