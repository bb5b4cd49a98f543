LEVELS = {0:"",1:"",2:"",3:""}
def best() -> int:
    return 3
