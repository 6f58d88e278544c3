    $balance = 0;
    foreach ($operations as $change) {
        $balance += $change;
        if ($balance < 0) {
            return true;
        }
    }
    return false;
}
